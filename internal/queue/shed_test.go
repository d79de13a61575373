package queue

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"loadline.dev/loadline/serving"
)

// A shop is a queue with servers behind it under a virtual clock.
type shop struct {
	q       Queue
	servers int
	service time.Duration // mean; drawn from an exponential distribution
	leave   time.Duration // after which clients leave; zero is never
	limit   time.Duration // that clients give; zero is none

	dice    *rand.Rand
	now     time.Duration
	free    int
	ends    durations
	waiting []*Place // by arrival; some have left the queue

	came, refused, served int
	took                  []time.Duration // of those answered whose clients were still there, in order of arrival's answer
	at                    []time.Duration // when each of them arrived
}

type durations []time.Duration

func (d durations) Len() int           { return len(d) }
func (d durations) Less(i, j int) bool { return d[i] < d[j] }
func (d durations) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *durations) Push(x any)        { *d = append(*d, x.(time.Duration)) }
func (d *durations) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

func (s *shop) clock() time.Time { return start.Add(s.now) }

// play lets requests come at rate a second until end.
func (s *shop) play(rate float64, end time.Duration) {
	next := s.now + time.Duration(s.dice.ExpFloat64()/rate*1e9)
	for {
		if len(s.ends) > 0 && s.ends[0] <= min(next, end) {
			s.now = heap.Pop(&s.ends).(time.Duration)
			s.free++
			s.serve()
			continue
		}
		if next > end {
			s.now = end
			return
		}
		s.now = next
		s.arrive()
		next += time.Duration(s.dice.ExpFloat64() / rate * 1e9)
	}
}

func (s *shop) arrive() {
	s.came++
	p := &Place{Arrived: s.clock(), Bytes: 1}
	if s.limit > 0 {
		p.Deadline = p.Arrived.Add(s.limit)
	}
	if s.free > 0 && s.q.Len() == 0 {
		s.start(p)
		return
	}
	if err := s.q.Push(p, s.clock()); err != nil {
		s.refused++
		return
	}
	s.waiting = append(s.waiting, p)
	s.serve()
}

func (s *shop) serve() {
	for s.leave > 0 && len(s.waiting) > 0 && s.clock().Sub(s.waiting[0].Arrived) > s.leave {
		s.q.Remove(s.waiting[0])
		s.waiting = s.waiting[1:]
	}
	for s.free > 0 {
		p := s.q.Pop(s.clock())
		if p == nil {
			break
		}
		s.start(p)
	}
	for s.q.Refused(s.clock()) != nil {
		s.refused++
	}
}

func (s *shop) start(p *Place) {
	s.free--
	end := s.now + time.Duration(s.dice.ExpFloat64()*float64(s.service))
	heap.Push(&s.ends, end)
	s.served++
	s.took = append(s.took, start.Add(end).Sub(p.Arrived))
	s.at = append(s.at, p.Arrived.Sub(start))
}

// within counts answers no later than limit, and gives the p99 of all.
func (s *shop) within(limit time.Duration) (good int, p99 time.Duration) {
	sorted := durations(append([]time.Duration(nil), s.took...))
	h := &sorted
	heap.Init(h)
	n := len(sorted)
	for i := range n {
		d := heap.Pop(h).(time.Duration)
		if d <= limit {
			good++
		}
		if i == n*99/100 {
			p99 = d
		}
	}
	return good, p99
}

// At three times the capacity nearly all of it goes to answers in time, with
// nobody having set any bound, whether clients have patience or not; and once
// the overload is over, so is the waiting.
func TestThreefoldOverloadKeepsItsGoodput(t *testing.T) {
	const objective = 200 * time.Millisecond
	for sentence, c := range map[string]struct {
		order          Order
		leave, limit   time.Duration
		servers        int
		service        time.Duration
		goodput, atP99 float64 // × capacity, × objective
	}{
		"late-last, endless patience":      {LateLast, 0, 0, 8, 20 * time.Millisecond, .95, 1},
		"late-last, clients leave":         {LateLast, time.Second, 0, 8, 20 * time.Millisecond, .95, 1},
		"late-last, clients give 500 ms":   {LateLast, 0, 500 * time.Millisecond, 8, 20 * time.Millisecond, .95, 1.1},
		"late-last, one place":             {LateLast, 0, 0, 1, 10 * time.Millisecond, .95, 1},
		"late-last, slow beside objective": {LateLast, 0, 0, 4, 30 * time.Millisecond, .95, 1.2},
		// Who is served in order of arrival is late until the overload is believed.
		"first in, first out": {FIFO, 0, 0, 8, 20 * time.Millisecond, .85, 30},
	} {
		t.Run(sentence, func(t *testing.T) {
			s := &shop{servers: c.servers, free: c.servers, service: c.service, leave: c.leave, limit: c.limit, dice: rand.New(rand.NewPCG(3, 8)),
				q: Queue{Policy: Policy{Order: c.order, Objective: objective, Overtake: 5 * time.Second, Shed: true}, Service: c.service, Tail: 4 * c.service}}
			capacity := float64(c.servers) / c.service.Seconds()
			s.play(3*capacity, time.Minute)
			good, p99 := s.within(objective)
			if share := float64(good) / 60 / capacity; share < c.goodput {
				t.Errorf("goodput %.3f of capacity", share)
			}
			if float64(p99) > c.atP99*float64(objective) {
				t.Errorf("p99 of the admitted %v", p99)
			}
			s.play(capacity/2, time.Minute+time.Second) // a second later it is over
			s.took, s.at, s.refused = nil, nil, 0
			s.play(capacity/2, time.Minute+11*time.Second)
			if _, p99 := s.within(objective); p99 > objective || s.refused > s.came/1000 {
				t.Errorf("after the overload p99 %v, %d refused", p99, s.refused)
			}
		})
	}
}

// A burst is held, however long: nobody is refused who would be served.
func TestBurstIsHeld(t *testing.T) {
	s := &shop{servers: 4, free: 4, service: 20 * time.Millisecond, dice: rand.New(rand.NewPCG(1, 1)),
		q: Queue{Policy: Policy{Objective: 200 * time.Millisecond, Overtake: 5 * time.Second, Shed: true}, Service: 20 * time.Millisecond, Tail: 80 * time.Millisecond}}
	for range 4000 { // twenty seconds of work
		s.arrive()
	}
	s.play(20, time.Minute)
	if s.refused > 0 || s.served != s.came {
		t.Errorf("%d of %d refused, %d served", s.refused, s.came, s.served)
	}
}

// A model whose answers take far longer than the default objective allows to
// wait is not overloaded by that alone.
func TestSlowModelIsNoOverload(t *testing.T) {
	s := &shop{servers: 2, free: 2, service: time.Second, dice: rand.New(rand.NewPCG(2, 8)),
		q: Queue{Policy: Policy{Objective: 200 * time.Millisecond, Overtake: 5 * time.Second, Shed: true}, Service: time.Second, Tail: 4 * time.Second}}
	s.play(1.6, time.Hour)
	if s.refused > 0 {
		t.Errorf("%d of %d refused at 0.8 of the capacity", s.refused, s.came)
	}
}

// Whoever cannot be answered before its deadline hears so at once; while more
// capacity is coming it is held.
func TestHopelessDeadlineIsRefusedAtOnce(t *testing.T) {
	for _, shed := range []bool{true, false} {
		q := Queue{Policy: Policy{Objective: time.Second, Shed: shed}, Service: 10 * time.Millisecond}
		for range 50 {
			arrive(t, &q, "early", 0)
		}
		for ms := range 20 { // one leaves each 10 ms
			q.Pop(at(10 * ms))
		}
		soon := &Place{Arrived: at(200), Deadline: at(400)} // 30 wait: their turn takes 310 ms
		if err := q.Push(soon, at(200)); errors.Is(err, serving.Busy) != shed {
			t.Errorf("shed %v: got %v", shed, err)
		}
		later := &Place{Arrived: at(200), Deadline: at(900)}
		if err := q.Push(later, at(200)); err != nil {
			t.Errorf("shed %v: %v", shed, err)
		}
	}
}

// When the queue is full of those who are late already, they make room.
func TestLateOnesYieldTheirBytes(t *testing.T) {
	q := Queue{Policy: Policy{Objective: 100 * time.Millisecond, Bytes: 3, Shed: true}}
	arrive(t, &q, "a", 0)
	arrive(t, &q, "b", 1)
	arrive(t, &q, "c", 2)
	q.Pop(at(150)) // now they are known to be late
	arrive(t, &q, "d", 151)
	arrive(t, &q, "e", 152)
	if p := q.Refused(at(152)); p == nil || p.Owner != "b" {
		t.Errorf("refused %v", p)
	}
	if p := q.Refused(at(152)); p != nil {
		t.Errorf("refused %v too", p.Owner)
	}
}
