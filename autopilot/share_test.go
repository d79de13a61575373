package autopilot

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func divided(room float64, asks ...Ask) (map[string]int, bool) {
	short := Divide(room, asks)
	given := map[string]int{}
	for _, a := range asks {
		given[a.Entity] = a.Given
	}
	return given, short
}

func TestSharesGoByNeedAndWeight(t *testing.T) {
	for sentence, c := range map[string]struct {
		room  float64
		asks  []Ask
		given string
	}{
		"all fit":                          {10, []Ask{{Entity: "a", Want: 4}, {Entity: "b", Want: 6}}, "map[a:4 b:6]"},
		"a small wish is met first":        {10, []Ask{{Entity: "a", Want: 2}, {Entity: "b", Want: 50}}, "map[a:2 b:8]"},
		"equals get the same":              {10, []Ask{{Entity: "a", Want: 50}, {Entity: "b", Want: 50}}, "map[a:5 b:5]"},
		"weight counts":                    {12, []Ask{{Entity: "a", Want: 50, Weight: 2}, {Entity: "b", Want: 50}}, "map[a:8 b:4]"},
		"floors come first":                {4, []Ask{{Entity: "a", Want: 50}, {Entity: "b", Want: 3, Floor: 3}}, "map[a:1 b:3]"},
		"what is held is kept":             {3, []Ask{{Entity: "a", Want: 2, Have: 1}, {Entity: "b", Want: 2, Have: 2}}, "map[a:1 b:2]"},
		"and kept the other way round too": {3, []Ask{{Entity: "a", Want: 2, Have: 2}, {Entity: "b", Want: 2, Have: 1}}, "map[a:2 b:1]"},
		"large replicas are few":           {8, []Ask{{Entity: "a", Want: 9, Size: 4}, {Entity: "b", Want: 9}}, "map[a:1 b:4]"},
		"nothing to give":                  {0, []Ask{{Entity: "a", Want: 1}}, "map[a:0]"},
	} {
		if got, _ := divided(c.room, c.asks...); fmt.Sprint(got) != c.given {
			t.Errorf("%s: got %v, want %s", sentence, got, c.given)
		}
	}
}

// With any wishes of a thousand entities: the room is never exceeded, nobody
// gets more than wanted or, short of it, less than another of its weight who
// gets more than its floor by over one; and once the shares are held, asking
// again moves nothing, in whatever order the asks come.
func TestSharesAreFairAndNeverThrash(t *testing.T) {
	for seed := range uint64(30) {
		dice := rand.New(rand.NewPCG(seed, 9))
		asks := make([]Ask, 1+dice.IntN(1000))
		wished := 0
		for i := range asks {
			asks[i] = Ask{Entity: fmt.Sprint("e", i), Want: dice.IntN(20), Have: dice.IntN(20)}
			wished += asks[i].Want
		}
		room := float64(dice.IntN(wished + 10))
		short := Divide(room, asks)
		sum, least, most := 0, 1<<30, 0
		for _, a := range asks {
			sum += a.Given
			if a.Given > a.Want {
				t.Fatalf("seed %d: %+v got more than it wanted", seed, a)
			}
			if a.Given < a.Want {
				least = min(least, a.Given)
			}
			most = max(most, a.Given)
		}
		if float64(sum) > room || short != (float64(wished) > room) || short && float64(sum) < room {
			t.Fatalf("seed %d: %d given of room %v, %d wished, short %v", seed, sum, room, wished, short)
		}
		if short && most > least+1 {
			t.Fatalf("seed %d: one got %d while another went without beyond %d", seed, most, least)
		}
		before := map[string]int{}
		for i := range asks {
			asks[i].Have = asks[i].Given
			before[asks[i].Entity] = asks[i].Given
		}
		dice.Shuffle(len(asks), func(i, j int) { asks[i], asks[j] = asks[j], asks[i] })
		Divide(room, asks)
		for _, a := range asks {
			if a.Given != before[a.Entity] {
				t.Fatalf("seed %d: asked again, %s got %d after %d", seed, a.Entity, a.Given, before[a.Entity])
			}
		}
	}
}
