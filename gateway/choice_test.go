package gateway_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/internal/queue"
	"loadline.dev/loadline/link"
)

// slowly answers after a while, and counts.
func slowly(took time.Duration, count *atomic.Int64, status int) link.Handler {
	return func(ctx context.Context, in *link.Incoming) {
		io.Copy(io.Discard, in)
		count.Add(1)
		time.Sleep(took)
		in.Reply(&link.Answer{Status: status, Size: int64(len(small))})
		in.Write(small)
	}
}

// A replica that is far slower than the others, or fails far more often, gets
// next to nothing.
func TestSickReplicaIsSetAside(t *testing.T) {
	for sentence, sick := range map[string]struct {
		took   time.Duration
		status int
	}{"slow": {60 * time.Millisecond, 200}, "failing": {time.Millisecond, 500}} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			var well, ill atomic.Int64
			g, addr := start(t, gateway.Config{})
			g.Publish(iris(startAgent(t, "a", 1, slowly(2*time.Millisecond, &well, 200)).replica(),
				startAgent(t, "b", 1, slowly(2*time.Millisecond, &well, 200)).replica(),
				startAgent(t, "c", 1, slowly(sick.took, &ill, sick.status)).replica()))
			ask := func(n int) {
				var crowd sync.WaitGroup
				for range 3 {
					nc := dial(t, addr)
					crowd.Go(func() {
						buf := make([]byte, 4096)
						for range n / 3 {
							io.WriteString(nc, post(iPath, "{}"))
							if _, err := nc.Read(buf); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				crowd.Wait()
			}
			ask(300) // long enough to see eight answers of the slow one
			eventually(t, func() bool {
				before := ill.Load()
				ask(120)
				return ill.Load()-before <= 2 // a trial at most
			})
		})
	}
}

// While more requests come than can be answered, those that could not be
// answered in time are told 429 at once, with when to come again, and the rest
// get nearly all that there is.
func TestOverloadIsRefusedAtOnce(t *testing.T) {
	var served, busy, good atomic.Int64
	g, addr := start(t, gateway.Config{Queue: queue.Policy{Objective: 100 * time.Millisecond, Overtake: 300 * time.Millisecond}})
	g.Publish(iris(startAgent(t, "a", 2, slowly(20*time.Millisecond, &served, 200)).replica()))
	var quickest atomic.Int64
	quickest.Store(int64(time.Hour))
	var crowd sync.WaitGroup
	ask := func() {
		began := time.Now()
		switch got := talk(t, addr, post(iPath, "{}", last)); {
		case strings.HasPrefix(got, "HTTP/1.1 200 "):
			good.Add(1)
		case strings.HasPrefix(got, "HTTP/1.1 429 ") && strings.Contains(got, "\r\nRetry-After: ") && strings.Contains(got, "RESOURCE_EXHAUSTED"):
			busy.Add(1)
			quickest.Store(min(quickest.Load(), int64(time.Since(began))))
		default:
			t.Errorf("got %q", got)
		}
	}
	for range 20 { // an overload is one that lasts
		for range 30 {
			crowd.Go(ask)
			time.Sleep(3 * time.Millisecond)
		}
		if busy.Load() > 50 && good.Load() > 50 {
			break
		}
	}
	crowd.Wait()
	if busy.Load() < 50 || good.Load() < 50 {
		t.Errorf("%d refused, %d answered", busy.Load(), good.Load())
	}
	if q := time.Duration(quickest.Load()); q > 90*time.Millisecond {
		t.Errorf("the quickest refusal took %v", q)
	}
}

// Requests whose clients have left while they waited do not reach the model.
func TestWhoeverHasLeftIsNotServed(t *testing.T) {
	var served atomic.Int64
	hold := make(chan struct{})
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "a", 1, func(_ context.Context, in *link.Incoming) {
		io.Copy(io.Discard, in)
		served.Add(1)
		<-hold
		in.Reply(&link.Answer{Status: 200, Size: int64(len(small))})
		in.Write(small)
	}).replica()))
	first := dial(t, addr)
	io.WriteString(first, post(iPath, "{}"))
	eventually(t, func() bool { return served.Load() == 1 })
	for range 20 {
		nc := dial(t, addr)
		io.WriteString(nc, post(iPath, "{}"))
		defer nc.Close()
	}
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 20 })
	gone := dial(t, addr)
	io.WriteString(gone, post(iPath, "{}"))
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 21 })
	gone.Close()
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 20 })
	close(hold)
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_waiting") == 0 })
	eventually(t, func() bool { return served.Load() == 21 })
}
