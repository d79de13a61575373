package gateway_test

import (
	"context"
	"io"
	"testing"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

func only(t *testing.T, g *gateway.Gateway) autopilot.Report {
	t.Helper()
	all := g.Reports(nil)
	if len(all) != 1 {
		t.Fatalf("%d reports", len(all))
	}
	return all[0]
}

func TestReportTellsWhatHappenedSinceTheLast(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	began, left, release := make(chan string, 9), make(chan string, 9), make(chan struct{})
	a := startAgent(t, "r", 1, func(ctx context.Context, in *link.Incoming) {
		if in.Path == "/invocations?fail" {
			in.Reply(&link.Answer{Status: 500, Size: 0})
			return
		}
		hold(began, left, release)(ctx, in)
	})
	g.Publish(iris(a.replica()))
	done := make(chan string, 2)
	go func() { done <- talk(t, addr, post(iPath, "one", last)) }()
	<-began
	go func() { done <- talk(t, addr, post(iPath, "two", last)) }()
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 1 })
	r := only(t, g)
	if r.Endpoint != "iris" || r.InFlight != 1 || r.Waiting != 1 || r.Arrivals != 2 || r.Ended != 0 || len(r.Replicas) != 1 || r.Replicas[0].Replica != "r" {
		t.Errorf("while two are there: %+v", r)
	}
	close(release)
	<-done
	<-done
	var sum autopilot.Report
	eventually(t, func() bool {
		r := only(t, g)
		sum.Ended, sum.Arrivals, sum.Failed, sum.Worked = sum.Ended+r.Ended, sum.Arrivals+r.Arrivals, sum.Failed+r.Failed, sum.Worked+r.Worked
		if r.Times != nil && r.Times.Total() != r.Ended {
			t.Errorf("%d times of %d requests", r.Times.Total(), r.Ended)
		}
		return sum.Ended == 2 && r.InFlight == 0
	})
	if sum.Arrivals != 0 || sum.Worked <= 0 || sum.Failed != 0 {
		t.Errorf("once they ended: %+v", sum)
	}
	if r := only(t, g); r.Ended != 0 || r.Times != nil || r.Worked != 0 {
		t.Errorf("told twice: %+v", r)
	}
}

func TestFirstWaiterWithoutAReplicaIsToldAtOnce(t *testing.T) {
	woken := make(chan string, 9)
	g, addr := start(t, gateway.Config{Wake: func(id, entity string) { woken <- id + "/" + entity }})
	route := iris()
	route.ID, route.Entities[0].Coming = "17", true
	g.Publish(route)
	done := make(chan string, 1)
	go func() { done <- talk(t, addr, post(iPath, "one", last)) }()
	select {
	case who := <-woken:
		if want := "17/" + route.Entities[0].Name; who != want {
			t.Errorf("woken is %s, want %s", who, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told")
	}
	route.Generation++
	route.Entities[0].Replicas = []serving.Replica{startAgent(t, "r", 1, echo).replica()}
	g.Publish(route)
	<-done
}

func TestAgentsAreAskedToKeepTheLine(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	a := startAgent(t, "r", 1, echo)
	route := iris(a.replica())
	g.Publish(route)
	g.SetLine(route.Tenant, route.Endpoint, route.Entities[0].Name, 6)
	g.SetLine(route.Tenant, "nobody", "x", 6)
	eventually(t, func() bool {
		io.WriteString(io.Discard, talk(t, addr, post(iPath, "x", last)))
		return only(t, g).Replicas[0].Line == 6
	})
}
