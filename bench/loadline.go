package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"
)

// The load line suite (B7): one machine with a known curve behind one queue, in
// virtual time. What differs is who says how many may be inside at once. A
// request is good when it waited no longer than the objective and was inside no
// longer than the objective.

const (
	lineSeconds = 360 // of each run; the drifting class changes at 120 and at 240
	lineLearn   = 60  // of traffic, after which a limiter should know
)

// offered is the load at a moment, in shares of the class's best: waves from
// three quarters to a quarter more than can be carried.
func offered(now float64) float64 { return 1 + 0.25*math.Sin(2*math.Pi*now/40) }

// A verdict is how one limiter did on one class.
type verdict struct {
	Good, Learning float64 // good requests a second, after learning and during it
	WorstLearning  float64 // 99th percentile inside, of the objective, while learning
	Late           float64 // the same after it
	End            int     // its limit at the end
	good           []int   // by second
}

// runLine plays a class against a limiter. wait moves a virtual clock, if one
// is needed.
func runLine(c class, l limiter, seed uint64, wait func(until float64)) verdict {
	dice := rand.New(rand.NewPCG(seed, 7))
	m := c.make()
	var queue, done []*job
	v := verdict{good: make([]int, lineSeconds)}
	leaves := map[*job]func(){}
	var learning, later []float64
	waited := false
	let := func(now float64) {
		for len(queue) > 0 {
			j := queue[0]
			if now-j.arrived > c.objective { // its caller has left
				queue = queue[1:]
				continue
			}
			leave, ok := l.enter(m.inside())
			if !ok {
				waited = true
				return
			}
			queue = queue[1:]
			j.began, j.beside = now, m.inside()+1
			leaves[j] = leave
			m.enter(now, j)
		}
	}
	arrival, second := 0.0, 1.0
	for now := 0.0; now < lineSeconds; {
		now = min(arrival, m.next(), second)
		wait(now)
		switch now {
		case second:
			l.second(now, waited || len(queue) > 0)
			waited = false
			second++
		case arrival:
			queue = append(queue, &job{arrived: now, work: c.draw(dice)})
			arrival += dice.ExpFloat64() / (c.peak * offered(now))
		default:
			done = m.finish(now, done[:0])
			for _, j := range done {
				if leave := leaves[j]; leave != nil {
					leave()
				}
				delete(leaves, j)
				l.left(now, j)
				inside := now - j.began
				if inside <= c.objective && int(now) < lineSeconds {
					v.good[int(now)]++
				}
				if now < lineLearn {
					learning = append(learning, inside)
				} else {
					later = append(later, inside)
				}
			}
		}
		let(now)
	}
	for s, n := range v.good {
		if s < lineLearn {
			v.Learning += float64(n) / lineLearn
		} else {
			v.Good += float64(n) / (lineSeconds - lineLearn)
		}
	}
	v.WorstLearning, v.Late, v.End = quantile(learning, 0.99)/c.objective, quantile(later, 0.99)/c.objective, l.limit()
	return v
}

func quantile(of []float64, q float64) float64 {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func noClock(float64) {}

// bubble is the role that plays one class against one limiter under the virtual
// clock of package testing/synctest: the only one that code which reads package
// time by itself can be run under, and tests are the only place that has it.
func bubble(args []string) error {
	f := flag.NewFlagSet("bubble", flag.ExitOnError)
	name, of, seed := f.String("class", "", "which"), f.String("limiter", "", "which"), f.Uint64("seed", 0, "of the dice")
	_ = f.Parse(args)
	os.Args = os.Args[:1]
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "Bubble", F: func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			wait := func(until float64) {
				if d := time.Until(start.Add(time.Duration(until * 1e9))); d > 0 {
					time.Sleep(d)
				}
			}
			for _, c := range classes() {
				for _, l := range limiters {
					if c.name == *name && l.name == *of {
						if err := json.NewEncoder(os.Stderr).Encode(runLine(c, l.make(c), *seed, wait)); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		})
	}}}, nil, nil)
	return nil
}

// inBubble has a process of its own play a class against a limiter.
func inBubble(ctx context.Context, class, limiter string, seed uint64) (verdict, error) {
	self, err := os.Executable()
	if err != nil {
		return verdict{}, err
	}
	var said, talk bytes.Buffer
	cmd := exec.CommandContext(ctx, self, "role", "bubble", "-class", class, "-limiter", limiter, "-seed", strconv.FormatUint(seed, 10))
	cmd.Stderr, cmd.Stdout = &said, &talk
	if err := cmd.Run(); err != nil {
		return verdict{}, fmt.Errorf("%s on %s: %w: %s", limiter, class, err, talk.Bytes())
	}
	var v verdict
	err = json.Unmarshal(said.Bytes(), &v)
	return v, err
}

// sweep are the static limits that are tried.
func sweep() []int {
	var list []int
	for n := 1; n <= 640; n = max(n+1, n*9/8) {
		list = append(list, n)
	}
	return list
}

// limiters are those that are compared, by name.
var limiters = []struct {
	name  string
	clock bool
	make  func(c class) limiter
}{
	{"loadline", false, func(c class) limiter { return newLearned(c.objective) }},
	{"failsafe-go", true, func(class) limiter { return newFailsafe() }},
	{"kratos BBR", true, func(class) limiter { return newKratos() }},
	{"Vegas", false, func(class) limiter { return newVegas() }},
	{"Gradient2", false, func(class) limiter { return newGradient2() }},
	{"static 1", false, func(class) limiter { return static(1) }},
	{"static 10", false, func(class) limiter { return static(10) }},
	{"static 100", false, func(class) limiter { return static(100) }},
}

// A lineRow is one limiter on one class, over all rounds.
type lineRow struct {
	Class, Limiter     string
	Share, Learning    series // good ÷ that of the best static limit
	TailLearning, Tail series // 99th percentile inside ÷ objective
	End                series
	Best               int     // the best static limit
	BestGood           float64 // good requests a second there
}

// lines is the suite.
func (b *bench) lines(ctx context.Context) (any, error) {
	var rows []lineRow
	var goals []goal
	for _, c := range classes() {
		found := map[string]*lineRow{}
		for seed := range uint64(b.rounds) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			best, at := verdict{}, 0
			for _, n := range sweep() {
				if v := runLine(c, static(n), seed, noClock); v.Good > best.Good {
					best, at = v, n
				}
			}
			for _, l := range limiters {
				var v verdict
				if l.clock {
					var err error
					if v, err = inBubble(ctx, c.name, l.name, seed); err != nil {
						return nil, err
					}
				} else {
					v = runLine(c, l.make(c), seed, noClock)
				}
				r := found[l.name]
				if r == nil {
					r = &lineRow{Class: c.name, Limiter: l.name, Best: at, BestGood: best.Good}
					found[l.name] = r
				}
				r.Share = append(r.Share, v.Good/best.Good)
				r.Learning = append(r.Learning, v.Learning/best.Learning)
				r.TailLearning = append(r.TailLearning, v.WorstLearning)
				r.Tail = append(r.Tail, v.Late)
				r.End = append(r.End, float64(v.End))
			}
		}
		for _, l := range limiters {
			rows = append(rows, *found[l.name])
		}
		mine := found["loadline"]
		goals = append(goals, goal{c.name + ": goodput ÷ best static, after 60 s", mine.Share.median(), 0.97, false},
			goal{c.name + ": goodput ÷ best static, in the first 60 s", mine.Learning.median(), 0.90, false})
	}
	printLines(rows)
	printGoals(os.Stdout, goals)
	return map[string]any{"rows": rows, "goals": goals}, nil
}

func printLines(rows []lineRow) {
	tab := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "B7 load line\tlimiter\tgood ÷ best static\tfirst 60 s\tp99 ÷ objective\tfirst 60 s\tlimit at the end\tbest static")
	for _, r := range rows {
		fmt.Fprintf(tab, "%s\t%s\t%v\t%v\t%v\t%v\t%v\t%d (%.0f/s)\n", r.Class, r.Limiter, r.Share, r.Learning, r.Tail, r.TailLearning, r.End, r.Best, r.BestGood)
	}
	tab.Flush()
}
