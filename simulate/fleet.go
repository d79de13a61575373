package simulate

import (
	"math"
	"slices"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/gateway/balance"
)

const never = int64(math.MaxInt64)

// A fleet is the replicas of one entity. All are alike, so those with equally
// many requests stand on one step, and the balancer is offered one of each step
// instead of each replica: its choice is the same, and a thousand replicas cost
// no more than ten.
type fleet struct {
	line, capacity int
	inside         bool // requests may wait inside a replica
	service        time.Duration
	all            []replica // by number; gone ones are used again
	gone           []int32
	steps          [][]int32 // replicas that take requests, by how many they hold
	low            int       // no step below holds a replica
	count          int       // replicas on steps
	fresh          int       // of them, not served yet
	coming         []int64   // when those that start are ready, soonest first
	drained        []int64   // when those that take no more will be done
}

// A replica is one of them.
type replica struct {
	holds  int32
	place  int32 // its index on its step
	served bool
	leaves bool
	last   int64   // when the last request it holds will end
	free   []int64 // when each of its capacity is free; only where some may wait inside
}

func (f *fleet) begin(line, capacity int, service time.Duration) {
	f.capacity, f.service = capacity, service
	f.admit(line)
	f.low = line
	f.inside = line > capacity
}

// admit changes the line. Nobody who is inside is sent away.
func (f *fleet) admit(line int) {
	f.line = line
	for len(f.steps) <= line {
		f.steps = append(f.steps, nil)
	}
}

func (f *fleet) ready() int    { return f.count }
func (f *fleet) starting() int { return len(f.coming) }
func (f *fleet) size() int     { return f.count + len(f.coming) }

func (f *fleet) seen() autopilot.Fleet {
	return autopilot.Fleet{Ready: f.count, Starting: len(f.coming), Fresh: f.fresh}
}

// launch starts a replica that is ready at the given moment.
func (f *fleet) launch(at int64) {
	i, _ := slices.BinarySearch(f.coming, at+1)
	f.coming = slices.Insert(f.coming, i, at)
}

func (f *fleet) nextReady() int64 {
	if len(f.coming) == 0 {
		return never
	}
	return f.coming[0]
}

// open lets the next replica that starts take requests.
func (f *fleet) open(now int64) {
	f.coming = f.coming[:copy(f.coming, f.coming[1:])]
	var r int32
	if n := len(f.gone); n > 0 {
		r, f.gone = f.gone[n-1], f.gone[:n-1]
		f.all[r] = replica{free: f.all[r].free[:0]}
	} else {
		r = int32(len(f.all))
		f.all = append(f.all, replica{})
	}
	if f.inside {
		for range f.capacity {
			f.all[r].free = append(f.all[r].free, now)
		}
	}
	f.count++
	f.fresh++
	f.put(r, 0)
}

// pick is the replica that takes the next request, or −1 when none has room.
func (f *fleet) pick() int32 {
	var choice balance.Choice
	for n := f.low; n < f.line; n++ {
		if len(f.steps[n]) > 0 {
			choice.Offer(n, balance.Seen{InFlight: n, Line: f.line, Service: f.service})
		}
	}
	n, ok := choice.Best()
	if !ok {
		return -1
	}
	step := f.steps[n]
	return step[len(step)-1]
}

// serve puts a request on replica r and says when its service starts.
func (f *fleet) serve(r int32, now, service int64) int64 {
	x := &f.all[r]
	if !x.served {
		x.served = true
		f.fresh--
	}
	f.take(r)
	f.put(r, x.holds+1)
	start := now
	if f.inside {
		i := 0
		for j, at := range x.free {
			if at < x.free[i] {
				i = j
			}
		}
		start = max(now, x.free[i])
		x.free[i] = start + service
	}
	x.last = max(x.last, start+service)
	return start
}

// finish ends a request on replica r.
func (f *fleet) finish(r int32) {
	x := &f.all[r]
	if !x.leaves {
		f.take(r)
		f.put(r, x.holds-1)
		return
	}
	if x.holds--; x.holds == 0 {
		f.gone = append(f.gone, r)
	}
}

// retire takes one replica out: of those that have served, the one with the
// least to finish. It reports whether there was one.
func (f *fleet) retire(now int64) bool {
	for n := f.low; n < len(f.steps); n++ {
		for _, r := range f.steps[n] {
			x := &f.all[r]
			if !x.served {
				continue
			}
			f.take(r)
			f.count--
			x.leaves = true
			if x.holds == 0 {
				f.gone = append(f.gone, r)
			} else {
				f.drained = append(f.drained, x.last)
			}
			return true
		}
	}
	return false
}

// leaving is how many of those that take no more are busy for half of the
// second after now, or longer. Rounding to whole seconds this way keeps the sum
// of a series' rows true to what those replicas cost.
func (f *fleet) leaving(now int64) int {
	f.drained = slices.DeleteFunc(f.drained, func(end int64) bool { return end <= now })
	n := 0
	for _, end := range f.drained {
		if end-now >= second/2 {
			n++
		}
	}
	return n
}

func (f *fleet) put(r, holds int32) {
	x := &f.all[r]
	x.holds, x.place = holds, int32(len(f.steps[holds]))
	f.steps[holds] = append(f.steps[holds], r)
	f.low = min(f.low, int(holds))
}

func (f *fleet) take(r int32) {
	x := &f.all[r]
	step := f.steps[x.holds]
	last := step[len(step)-1]
	step[x.place] = last
	f.all[last].place = x.place
	f.steps[x.holds] = step[:len(step)-1]
	for f.low < len(f.steps)-1 && len(f.steps[f.low]) == 0 {
		f.low++
	}
}
