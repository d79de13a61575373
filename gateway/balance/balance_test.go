package balance

import (
	"testing"
	"time"
)

func TestBestIsWhoDrainsSoonest(t *testing.T) {
	cases := map[string]struct {
		offered []Seen
		want    int
	}{
		"the idle one":                      {[]Seen{{InFlight: 3, Line: 4}, {InFlight: 0, Line: 4}, {InFlight: 1, Line: 4}}, 1},
		"the first of equals":               {[]Seen{{Line: 4}, {Line: 4}}, 0},
		"the fast one, even if busier":      {[]Seen{{0, 1, 100 * time.Millisecond}, {3, 1, 10 * time.Millisecond}}, 1},
		"the slow one once that is shorter": {[]Seen{{0, 1, 100 * time.Millisecond}, {10, 1, 10 * time.Millisecond}}, 0},
		"the one with the larger line":      {[]Seen{{4, 4, time.Millisecond}, {4, 8, time.Millisecond}}, 1},
		"an unknown line counts as one":     {[]Seen{{1, 0, time.Millisecond}, {2, 2, time.Millisecond}}, 1},
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
	seen := []Seen{{5, 4, 3 * time.Millisecond}, {1, 2, 9 * time.Millisecond}, {0, 1, 4 * time.Millisecond}, {7, 8, 2 * time.Millisecond}}
	for first := range seen {
		var choice Choice
		for i := range seen {
			j := (first + i) % len(seen)
			choice.Offer(j, seen[j])
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
