package contract

import (
	"sync"
	"testing"

	"loadline.dev/loadline/agent/pyworker"
)

// together asks a model whose requests may share a call all its clean requests
// at once, several times over, and wants the answers that each has alone.
func together(t *testing.T, model string, e *pyworker.Engine, asks []ask) {
	if e.Gathers() < 2 {
		return
	}
	type clean struct {
		ask
		want answer
	}
	var all []clean
	for _, a := range asks {
		if !a.Clean {
			continue
		}
		want, err := askOurs(e, a, a.contentType())
		if err != nil {
			t.Errorf("%s: %s: %v", model, a.Name, err)
			return
		}
		all = append(all, clean{a, want})
	}
	places := make(chan struct{}, 32)
	var turn sync.WaitGroup
	for i := range 4 * len(all) {
		places <- struct{}{}
		turn.Go(func() {
			defer func() { <-places }()
			c := all[i*7%len(all)]
			got, err := askOurs(e, c.ask, c.contentType())
			if err != nil || got != c.want {
				t.Errorf("%s: %s: among others %.800v (%v), alone %.800v\nrequest %.300s", model, c.Name, got, err, c.want, c.Body)
			}
		})
	}
	turn.Wait()
	s := e.Stats()
	t.Logf("%s: %d requests among others; calls by requests in them (1, 2, …4, …8, …): %v", model, 4*len(all), s.Calls)
	if s.Shared() == 0 {
		t.Errorf("%s: no requests shared a call: %v", model, s.Calls)
	}
}
