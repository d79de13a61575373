package feed_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/gateway/feed"
	"loadline.dev/loadline/serving"
)

// A dealer is asked as often a second as mine says, and keeps what it was told.
type dealer struct {
	mine int

	mu   sync.Mutex
	told serving.Calls
}

func (d *dealer) Calls(list []serving.Calls) []serving.Calls {
	return append(list, serving.Calls{Tenant: "default", Endpoint: "iris", Mine: d.mine})
}

func (d *dealer) Share(c serving.Calls) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = c
}

func (d *dealer) last() serving.Calls {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.told
}

type nowhere struct{}

func (nowhere) Publish(serving.Route)   {}
func (nowhere) Withdraw(string, string) {}

// Every gateway learns which part of all calls came to it.
func TestGatewaysLearnTheirPartOfTheCalls(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	h := &feed.Hub{Own: nowhere{}, Log: quiet, Keys: func() ([]byte, error) { return []byte("[]"), nil }}
	server := httptest.NewServer(h)
	defer server.Close()
	var parts sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer parts.Wait()
	defer stop()
	own, far := &dealer{mine: 30}, &dealer{mine: 10}
	parts.Go(func() { h.Deal(ctx, own) })
	f := feed.NewFollower()
	f.Server, f.Client, f.Log, f.Router = server.URL, server.Client(), quiet, nowhere{}
	f.Self = feed.Member{ID: "far", Addr: "nowhere:1"}
	f.Keys, f.Gateways = func([]byte) error { return nil }, func([]feed.Member) {}
	parts.Go(func() { f.Run(ctx) })
	<-f.Synced()
	parts.Go(func() { f.Deal(ctx, far) })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		a, b := own.last(), far.last()
		if a.Mine == 30 && b.Mine == 10 && a.All == 40 && b.All == 40 && a.Gateways == 2 && b.Gateways == 2 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("one was told %+v, the other %+v", a, b)
		}
	}
}
