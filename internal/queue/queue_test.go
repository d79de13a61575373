package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/serving"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func arrive(t *testing.T, q *Queue, name string, ms int) *Place {
	t.Helper()
	p := &Place{Owner: name, Arrived: at(ms), Bytes: 1}
	if err := q.Push(p, at(ms)); err != nil {
		t.Fatal(err)
	}
	return p
}

// drain pops everyone at one moment.
func drain(q *Queue, ms int) string {
	var names []string
	for p := q.Pop(at(ms)); p != nil; p = q.Pop(at(ms)) {
		names = append(names, p.Owner.(string))
	}
	return strings.Join(names, " ")
}

func TestLateOnesWaitForThoseOnTime(t *testing.T) {
	cases := map[string]struct {
		policy Policy
		now    int
		want   string
	}{
		"nobody is late yet":            {Policy{Objective: 1000 * time.Millisecond}, 300, "a b c"},
		"a is late":                     {Policy{Objective: 250 * time.Millisecond}, 300, "b c a"},
		"a and b are late, by arrival":  {Policy{Objective: 150 * time.Millisecond}, 300, "c a b"},
		"all are late":                  {Policy{Objective: 10 * time.Millisecond}, 300, "a b c"},
		"no objective":                  {Policy{}, 300, "a b c"},
		"first in, first out":           {Policy{Order: FIFO, Objective: 250 * time.Millisecond}, 300, "a b c"},
		"a was overtaken for long":      {Policy{Objective: 150 * time.Millisecond, Overtake: 100 * time.Millisecond}, 300, "a c b"},
		"every second turn, not each":   {Policy{Objective: 150 * time.Millisecond, Overtake: time.Millisecond}, 300, "a c b"},
		"overtaking without own number": {Policy{Objective: 140 * time.Millisecond}, 300, "a c b"},
	}
	for sentence, c := range cases {
		t.Run(sentence, func(t *testing.T) {
			q := Queue{Policy: c.policy}
			arrive(t, &q, "a", 0)
			arrive(t, &q, "b", 100)
			arrive(t, &q, "c", 200)
			if got := drain(&q, c.now); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// A late one whose deadline is near goes before it is lost.
func TestNearDeadlineEndsOvertaking(t *testing.T) {
	q := Queue{Policy: Policy{Objective: 100 * time.Millisecond, Overtake: time.Hour}}
	p := &Place{Owner: "a", Arrived: at(0), Deadline: at(300)}
	if err := q.Push(p, at(0)); err != nil {
		t.Fatal(err)
	}
	arrive(t, &q, "b", 200)
	if got := drain(&q, 210); got != "a b" {
		t.Errorf("got %s", got)
	}
}

func TestPassedDeadlineIsSkipped(t *testing.T) {
	var q Queue
	p := &Place{Owner: "a", Arrived: at(0), Deadline: at(100)}
	if err := q.Push(p, at(0)); err != nil {
		t.Fatal(err)
	}
	arrive(t, &q, "b", 50)
	if got := drain(&q, 100); got != "b" || p.Waiting() || p.Chosen() || q.Bytes() != 0 {
		t.Errorf("got %s, waiting %v, chosen %v, %d bytes", got, p.Waiting(), p.Chosen(), q.Bytes())
	}
	if err := q.Push(p, at(100)); !errors.Is(err, serving.TimedOut) {
		t.Errorf("pushed after its deadline: %v", err)
	}
}

func TestFullQueueIsBusy(t *testing.T) {
	q := Queue{Policy: Policy{Bytes: 100}}
	for i, c := range []struct {
		bytes int64
		want  error
	}{{90, nil}, {11, serving.Busy}, {10, nil}, {1, serving.Busy}} {
		if err := q.Push(&Place{Bytes: c.bytes}, at(0)); !errors.Is(err, c.want) {
			t.Errorf("%d: got %v, want %v", i, err, c.want)
		}
	}
	// One alone may always wait: else a body larger than the bound never could.
	alone := Queue{Policy: Policy{Bytes: 100}}
	if err := alone.Push(&Place{Bytes: 1000}, at(0)); err != nil {
		t.Error(err)
	}
}

func TestReturnedOneGoesFirst(t *testing.T) {
	q := Queue{Policy: Policy{Objective: 100 * time.Millisecond, Overtake: time.Hour}}
	arrive(t, &q, "a", 0)
	arrive(t, &q, "b", 1)
	p := q.Pop(at(10))
	if err := q.Return(p, at(20)); err != nil {
		t.Fatal(err)
	}
	if got := drain(&q, 30); got != "a b" {
		t.Errorf("on time: got %s", got)
	}
	if err := q.Return(p, at(150)); err != nil {
		t.Fatal(err)
	}
	arrive(t, &q, "c", 150)
	if got := drain(&q, 160); got != "c a" {
		t.Errorf("late: got %s", got)
	}
}

// However calls are mixed: each place comes out at most once, counts and bytes
// add up, nobody on time leaves after somebody on time who came later, and with
// first in, first out the order of arrival holds for all.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(200) {
		dice := rand.New(rand.NewPCG(seed, 1))
		q := Queue{Policy: Policy{Order: Order(seed % 2), Objective: 50 * time.Millisecond, Overtake: 100 * time.Millisecond}}
		var in []*Place
		bytes, last := int64(0), -1
		now := 0
		for step := range 500 {
			now += dice.IntN(10)
			switch dice.IntN(5) {
			case 0, 1:
				p := &Place{Owner: step, Arrived: at(now), Bytes: dice.Int64N(100)}
				if q.Push(p, at(now)) == nil {
					in = append(in, p)
					bytes += p.Bytes
				}
			case 2:
				if len(in) > 0 {
					i := dice.IntN(len(in))
					q.Remove(in[i])
					q.Remove(in[i])
					bytes -= in[i].Bytes
					in = append(in[:i], in[i+1:]...)
				}
			default:
				p := q.Pop(at(now))
				if (p == nil) != (len(in) == 0) {
					t.Fatalf("seed %d: popped %v of %d", seed, p, len(in))
				}
				if p == nil {
					continue
				}
				i := 0
				for i < len(in) && in[i] != p {
					i++
				}
				if i == len(in) {
					t.Fatalf("seed %d: %v came out though it was not in", seed, p.Owner)
				}
				in = append(in[:i], in[i+1:]...)
				bytes -= p.Bytes
				if q.Policy.Order == FIFO || !q.isLate(p, at(now)) {
					if p.Owner.(int) < last {
						t.Fatalf("seed %d: %v after %d", seed, p.Owner, last)
					}
					last = p.Owner.(int)
				}
			}
			if q.Len() != len(in) || q.Bytes() != bytes {
				t.Fatalf("seed %d: %d and %d bytes, want %d and %d", seed, q.Len(), q.Bytes(), len(in), bytes)
			}
		}
	}
}

// A backlog of 100 that clears slowly: late-last has far fewer late ones.
func TestLateLastLeavesFewerLate(t *testing.T) {
	late := map[Order]int{}
	for _, order := range []Order{LateLast, FIFO} {
		q := Queue{Policy: Policy{Order: order, Objective: 100 * time.Millisecond, Overtake: 10 * time.Second}}
		for i := range 100 {
			arrive(t, &q, fmt.Sprint("burst", i), 0)
		}
		for ms := range 10_000 { // one leaves every 5 ms, one comes every 6
			if ms%6 == 0 {
				arrive(t, &q, fmt.Sprint(ms), ms)
			}
			if ms%5 != 0 {
				continue
			}
			if p := q.Pop(at(ms)); p != nil && at(ms).Sub(p.Arrived) > q.Policy.Objective {
				late[order]++
			}
		}
	}
	if late[LateLast]*3 > late[FIFO] {
		t.Errorf("late-last %d late, fifo %d", late[LateLast], late[FIFO])
	}
}

func BenchmarkPushPop(b *testing.B) {
	b.ReportAllocs()
	q := Queue{Policy: Policy{Objective: time.Second}}
	places := make([]Place, 64)
	for i := range places {
		places[i].Arrived = start
		q.Push(&places[i], start)
	}
	for b.Loop() {
		q.Push(q.Pop(start), start)
	}
}
