package agent_test

import (
	"context"
	"testing"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

func TestPlacesAreGrantedByTheLineThatAGatewaySends(t *testing.T) {
	s := stage(t, "exec sleep 1000", func(a *serving.Assignment) { a.Recipe.Limits.Concurrency = 2 }, func(e *shell) {
		e.do = func(_ context.Context, _ *agent.Request, w agent.Answerer) error { return say(w, 200, "yes") }
	})
	s.ready()
	c := s.dial()
	c.SetLine(7)
	for deadline := time.Now().Add(10 * time.Second); c.Places() != 7; {
		if time.Now().After(deadline) {
			t.Fatalf("%d places, want 7", c.Places())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestLoadTellsHowManyWereBesideEachOther(t *testing.T) {
	const requests = 3
	inside, finish := make(chan bool, requests), make(chan bool)
	s := stage(t, "exec sleep 1000", func(a *serving.Assignment) { a.Recipe.Limits.Concurrency = requests }, func(e *shell) {
		e.do = func(_ context.Context, _ *agent.Request, w agent.Answerer) error {
			inside <- true
			<-finish
			return say(w, 200, "yes")
		}
	})
	r := s.ready()
	loads := make(chan link.Load, 100)
	c, err := link.Dial(t.Context(), r.Addr, link.Hooks{Load: func(l link.Load) { loads <- l }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range requests {
		go ask(again(c), link.Request{})
		<-inside // one after another
	}
	close(finish)
	for l := range loads {
		if l.Answered == requests {
			if l.Beside != 1+2+3 || l.Inside == 0 {
				t.Errorf("beside adds up to %d, want 6; inside to %v", l.Beside, time.Duration(l.Inside))
			}
			return
		}
	}
}
