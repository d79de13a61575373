package balance

import (
	"testing"
	"time"
)

func seen(inFlight, line, ms int) Seen {
	return Seen{InFlight: inFlight, Line: line, Service: time.Duration(ms) * time.Millisecond}
}

func TestBestIsWhoDrainsSoonest(t *testing.T) {
	cases := map[string]struct {
		offered []Seen
		want    int
	}{
		"the idle one":                      {[]Seen{{InFlight: 3, Line: 4}, {InFlight: 0, Line: 4}, {InFlight: 1, Line: 4}}, 1},
		"the first of equals":               {[]Seen{{Line: 4}, {Line: 4}}, 0},
		"the fast one, even if busier":      {[]Seen{{InFlight: 0, Line: 1, Service: 100 * time.Millisecond}, {InFlight: 3, Line: 1, Service: 10 * time.Millisecond}}, 1},
		"the slow one once that is shorter": {[]Seen{{InFlight: 0, Line: 1, Service: 100 * time.Millisecond}, {InFlight: 10, Line: 1, Service: 10 * time.Millisecond}}, 0},
		"the one with the larger line":      {[]Seen{seen(4, 4, 1), seen(4, 8, 1)}, 1},
		"an unknown line counts as one":     {[]Seen{seen(1, 0, 1), seen(2, 2, 1)}, 1},
		"not one that has gone quiet":       {[]Seen{{Line: 1, Service: time.Millisecond, Quiet: time.Second}, seen(3, 1, 1)}, 1},
	}
	for sentence, c := range cases {
		t.Run(sentence, func(t *testing.T) {
			var choice Choice
			for i, s := range c.offered {
				choice.Offer(i, s)
			}
			if got, ok := choice.Best(); got != c.want || !ok {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
	if _, ok := new(Choice).Best(); ok {
		t.Error("a choice of nobody")
	}
}

// Whoever is offered in whatever order: the same one wins, except among equals.
func TestOrderOfOffersDoesNotMatter(t *testing.T) {
	all := []Seen{seen(5, 4, 3), seen(1, 2, 9), seen(0, 1, 4), seen(7, 8, 2)}
	for first := range all {
		var choice Choice
		for i := range all {
			j := (first + i) % len(all)
			choice.Offer(j, all[j])
		}
		if got, _ := choice.Best(); got != 3 {
			t.Errorf("beginning at %d: got %d", first, got)
		}
	}
}

func BenchmarkChoice(b *testing.B) {
	b.ReportAllocs()
	seen := make([]Seen, 10)
	for b.Loop() {
		var choice Choice
		for i := range seen {
			choice.Offer(i, seen[i])
		}
	}
}
