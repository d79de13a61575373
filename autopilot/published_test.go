package autopilot

import (
	"testing"
	"time"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// second is a moment, counted from the beginning of a test.
func second(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }

func fly(t testing.TB, p Policy) *Pilot {
	t.Helper()
	pilot, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	return pilot
}

// The published rule, as the design states it, on demand that can be added up
// by hand. Each case holds demand for some seconds, one after another, with
// every wish carried out at once.
func TestPublishedRule(t *testing.T) {
	type hold struct{ seconds, active, want int }
	cases := map[string]struct {
		share float64
		holds []hold
	}{
		"demand over target":                           {0.5, []hold{{30, 40, 10}}},
		"the target is a share of what one carries":    {1.0, []hold{{30, 40, 5}}},
		"up goes by twenty seconds":                    {1.0, []hold{{61, 8, 1}, {10, 88, 6}, {10, 88, 11}}},
		"down goes by five minutes":                    {1.0, []hold{{601, 80, 10}, {150, 8, 6}, {150, 8, 1}}},
		"from nothing at most four, then double":       {1.0, []hold{{5, 800, 4}, {5, 800, 8}, {5, 800, 16}, {30, 800, 100}}},
		"down at most by half":                         {1.0, []hold{{601, 800, 100}, {300, 0, 1}, {5, 0, 0}}},
		"to nothing when five minutes brought nothing": {1.0, []hold{{400, 8, 1}, {290, 0, 1}, {15, 0, 0}}},
	}
	for sentence, c := range cases {
		t.Run(sentence, func(t *testing.T) {
			p := fly(t, Policy{Rule: Published, Share: c.share})
			now, size := 0, 0
			for i, h := range c.holds {
				for range h.seconds {
					now++
					p.Observe(Sample{At: second(now), InFlight: h.active, Line: 8})
					size = p.Decide(second(now), Fleet{Ready: size}).Want
				}
				if size != h.want {
					t.Fatalf("after hold %d: %d replicas, want %d", i+1, size, h.want)
				}
			}
		})
	}
}

func TestPublishedDecidesEveryFiveSeconds(t *testing.T) {
	p := fly(t, Policy{Rule: Published, Share: 1})
	changed, size := []int{}, 0
	for s := 1; s <= 60; s++ {
		p.Observe(Sample{At: second(s), InFlight: 10 * s, Line: 1})
		if want := p.Decide(second(s), Fleet{Ready: size}).Want; want != size {
			changed = append(changed, s%5)
			size = want
		}
	}
	for _, s := range changed {
		if s != changed[0] {
			t.Fatalf("changes at seconds %v of five", changed)
		}
	}
	if len(changed) < 10 {
		t.Errorf("%d changes in a minute of rising demand", len(changed))
	}
}

func TestStaticIsFixed(t *testing.T) {
	p := fly(t, Policy{Rule: Static, Size: 3})
	for s := range 100 {
		p.Observe(Sample{At: second(s), Arrivals: s * 100, InFlight: s * 50, Line: 1})
		if d := p.Decide(second(s), Fleet{}); d.Want != 3 || d.Why != Fixed {
			t.Fatalf("got %+v", d)
		}
	}
}

func TestPoliciesAreReadAsWritten(t *testing.T) {
	for text, want := range map[string]string{
		"autopilot": "autopilot", "published:0.7": "published:0.70", "published:1": "published:1.00", "static:12": "static:12",
		"": "", "autopilot:1": "", "published": "", "published:0": "", "published:NaN": "", "published:x": "", "static:-1": "", "fast": "",
	} {
		got, err := Parse(text)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}
