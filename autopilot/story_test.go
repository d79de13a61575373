package autopilot

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// A story is a pilot and a platform that does what it is told: a replica takes
// the start delay, and requests that find no place wait.
type story struct {
	pilot   *Pilot
	policy  Policy
	line    float64
	now     int // seconds
	ready   int
	served  int
	coming  []int // when they are ready
	waiting float64
	want    int
	why     Why
	out     strings.Builder
}

func (s *story) fleet() Fleet {
	return Fleet{Ready: s.ready, Starting: len(s.coming), Fresh: max(0, s.ready-s.served)}
}

// second lets one pass. With heard false its sample is lost on the way.
func (s *story) second(arrivals int, heard bool) {
	if s.fleet().size() == 0 && arrivals > 0 {
		s.obey(s.pilot.Wake(second(s.now), arrivals, s.fleet()))
	}
	s.now++
	for len(s.coming) > 0 && s.coming[0] <= s.now {
		s.coming = s.coming[1:]
		s.ready++
	}
	service := s.policy.Service.Seconds()
	carries := float64(s.ready) * s.line / service
	s.waiting += float64(arrivals)
	done := min(s.waiting, carries)
	s.waiting -= done
	if done > 0 {
		s.served = s.ready
	}
	s.served = min(s.served, s.ready)
	sample := Sample{At: second(s.now), Arrivals: arrivals, InFlight: int(done * service), Waiting: int(s.waiting), Line: s.line}
	if done > 0 {
		sample.Service = s.policy.Service
	}
	if heard {
		s.pilot.Observe(sample)
	}
	s.obey(s.pilot.Decide(second(s.now), s.fleet()))
}

func (s *story) obey(d Decision) {
	if d.Want != s.want || d.Why == AtMax && s.why != AtMax {
		fmt.Fprintf(&s.out, "%ds: %d replicas (%v)\n", s.now, d.Want, d.Why)
	}
	s.want, s.why = d.Want, d.Why
	for s.fleet().size() < d.Want {
		s.coming = append(s.coming, s.now+int(s.policy.Start.Seconds()))
	}
	for s.fleet().size() > d.Want && s.ready > 0 {
		s.ready--
		s.served = min(s.served, s.ready)
	}
}

// TestStories replays the scripts in testdata. To accept new behaviour run
//
//	go test ./autopilot -run TestStories -rewrite
//
// and read the diff before committing it: each changed line is a changed
// decision about somebody's endpoint.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		var s *story
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			text := func(key, otherwise string) string {
				d.MaybeScanArgs(t, key, &otherwise)
				return otherwise
			}
			span := func(key, otherwise string) time.Duration {
				v, err := time.ParseDuration(text(key, otherwise))
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				return v
			}
			number := func(key string, otherwise int) int {
				d.MaybeScanArgs(t, key, &otherwise)
				return otherwise
			}
			switch d.Cmd {
			case "pilot":
				p, err := Parse(text("policy", "autopilot"))
				if err != nil {
					return err.Error()
				}
				p.Start, p.Service, p.Idle = span("start", "10s"), span("service", "100ms"), span("idle", "0s")
				p.Min, p.Max = number("min", 0), number("max", 0)
				pilot, err := New(p)
				if err != nil {
					return err.Error()
				}
				s = &story{pilot: pilot, policy: p, line: float64(number("line", 8))}
				return "ok"
			case "traffic", "unheard":
				from := number("arrivals", 0)
				to := number("to", from)
				n := int(span("for", "1s").Seconds())
				for i := range n {
					s.second(from+(to-from)*i/max(1, n-1), d.Cmd == "traffic")
				}
			case "sample":
				at := s.now + int(span("at", "0s").Seconds())
				s.pilot.Observe(Sample{At: second(at), Arrivals: number("arrivals", 0), Line: s.line, Service: s.policy.Service})
				s.obey(s.pilot.Decide(second(s.now), s.fleet()))
			case "clock":
				s.now += int(span("jumps", "0s").Seconds())
				for i := range s.coming {
					s.coming[i] += int(span("jumps", "0s").Seconds())
				}
			default:
				return fmt.Sprintf("unknown command %q", d.Cmd)
			}
			out := s.out.String()
			s.out.Reset()
			if out == "" {
				return fmt.Sprintf("still %d replicas", s.want)
			}
			return out
		})
	})
}
