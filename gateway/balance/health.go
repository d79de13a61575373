package balance

import (
	"math"
	"slices"
	"time"
)

// A Health is what a gateway remembers of one replica. The zero value is one
// that nothing is known of. Its owner serializes calls, and calls [Judge] on
// those of one entity every [Period] or so while requests flow.
type Health struct {
	service float64       // smoothed nanoseconds of an answer
	failing float64       // smoothed share of answers that were failures
	quick   time.Duration // the quickest of the last full round of answers
	round   time.Duration // the quickest of the round under way
	answers int           // since it was let in

	silent int       // requests sent whose answer has not begun
	since  time.Time // the last sign of life while silent was above zero, or when it came to be

	state  state
	until  time.Time // when it may be tried again, unless in
	times  int       // how often in a row it was set aside
	extra  int       // of one that is stalled: how many may be unanswered
	inFrom time.Time // when it was let in again; zero: never set aside
	bar    float64   // nanoseconds of service that are too many, as last judged
	young  bool      // takes its places step by step, as others can carry the load
}

type state uint8

const (
	in      state = iota
	stalled       // answers nothing; whatever comes back ends it
	aside         // slow or failing; takes nothing
	probed        // takes one request, to see
)

// Of a replica that is compared with the others.
const (
	Period = 100 * time.Millisecond // how often to call Judge

	share    = 1.0 / 8 // of a new answer in the smoothed time and the share of failures
	aRound   = 8       // answers
	tooSlow  = 3       // × the median
	tooBad   = .25     // share of failures, and tooSlow × the median of it
	firstTry = time.Second
	lastTry  = time.Minute
)

// Newcomer is the health of a replica that joins others: it takes one request,
// then with each answer one more at a time, until it knows no bound but its line.
func Newcomer() Health { return Health{young: true} }

// Sent notes that a request was sent to the replica.
func (h *Health) Sent(now time.Time) {
	if h.silent++; h.silent == 1 {
		h.since = now
	}
}

// Began notes that an answer has begun, or that none will: each Sent is
// followed by one Began. alive says whether the replica gave a sign of life by it.
func (h *Health) Began(now time.Time, alive bool) {
	h.silent--
	switch {
	case alive && h.state == stalled:
		h.state = in
	case !alive && (h.state == probed || h.state == stalled && h.silent == 0):
		h.setAside(now)
	}
	if alive {
		h.since = now
	}
}

// Ended notes an answer: how long it took from being sent, and whether it was a
// failure of the replica.
func (h *Health) Ended(now time.Time, took time.Duration, failed bool) {
	h.answers++
	ns, bad := float64(took), 0.0
	if failed {
		bad = 1
	}
	if h.answers == 1 {
		h.service = ns
	}
	h.service += (ns - h.service) * share
	h.failing += (bad - h.failing) * share
	if (h.answers-1)%aRound == 0 {
		h.round = took
	}
	h.round = min(h.round, took)
	if h.answers%aRound == 0 {
		h.quick = h.round
	}
	if h.state == probed {
		h.probe(now, failed || h.bar > 0 && ns > h.bar)
	}
}

// probe ends a trial.
func (h *Health) probe(now time.Time, failed bool) {
	if failed {
		h.setAside(now)
		return
	}
	h.state, h.inFrom, h.young = in, now, true
	h.answers, h.service, h.failing, h.quick = 0, 0, 0, 0
}

func (h *Health) setAside(now time.Time) {
	if h.state == in && !h.inFrom.IsZero() && now.Sub(h.inFrom) > lastTry {
		h.times = 0 // it was well for long
	}
	h.state = aside
	h.until = now.Add(min(lastTry, firstTry<<min(h.times, 10)))
	h.times++
}

// Quiet is for how long the replica has answered nothing; see [Seen].
func (h *Health) Quiet(now time.Time) time.Duration {
	if h.silent == 0 {
		return 0
	}
	return max(0, now.Sub(h.since))
}

// Silent is since when the replica answers nothing although it was asked; zero
// when no answer is outstanding.
func (h *Health) Silent() time.Time {
	if h.silent == 0 {
		return time.Time{}
	}
	return h.since
}

// Limit is how many requests the replica may have at once, besides what its
// line says; inside is how many it has.
func (h *Health) Limit(inside int) int {
	switch {
	case h.state == aside:
		return 0
	case h.state == probed:
		return 1
	case h.state == stalled:
		return inside - h.silent + h.extra
	case h.young:
		return 1 + h.answers
	}
	return math.MaxInt
}

// Aside reports whether the replica was set aside, or is being tried again.
func (h *Health) Aside() bool { return h.state == aside || h.state == probed }

// Settle makes a newcomer one like any other: nobody else can carry the load.
func (h *Health) Settle() { h.young = false }

// A Judgement is the work space of [Judge], for one entity.
type Judgement struct {
	// Usual is the median of the replicas' smoothed times; zero is not known yet.
	Usual time.Duration

	numbers []float64
}

// Judge compares the replicas of one entity. It sets aside whose answers take
// three times the median, and not only some of them, and who fails far more
// often than the others; whoever answers nothing for three times of what nearly
// all answers take (tail; zero is unknown) is left alone until it does. Never
// are more than half of them out at once. Those set aside are tried again with
// one request, after a second at first and then twice as long each time.
func (j *Judgement) Judge(all []*Health, tail time.Duration, now time.Time) {
	usual, known := j.median(all, func(h *Health) float64 { return h.service })
	failing, _ := j.median(all, func(h *Health) float64 { return h.failing })
	j.Usual = time.Duration(usual)
	settleAlone(all)
	out := 0
	for _, h := range all {
		h.retry(now)
		h.bar = usual * tooSlow
		if h.state != in {
			out++
		}
	}
	if known < 2 {
		return
	}
	for out < len(all)/2 {
		worst, by := -1, 0.0
		for i, h := range all {
			if h.state != in {
				continue
			}
			if bad := h.badness(usual, failing, tail, now); bad > by {
				worst, by = i, bad
			}
		}
		if worst < 0 {
			return
		}
		h := all[worst]
		if h.ill(usual, failing) {
			h.setAside(now)
		} else {
			h.state, h.until, h.extra, h.times = stalled, now.Add(firstTry), 0, 0
		}
		out++
	}
}

// settleAlone ends the slow start of newcomers when there is nobody else.
func settleAlone(all []*Health) {
	if slices.ContainsFunc(all, func(h *Health) bool { return h.state == in && !h.young }) {
		return
	}
	for _, h := range all {
		h.young = false
	}
}

// retry lets one that is out show how it does, once its time has come.
func (h *Health) retry(now time.Time) {
	if h.state == in || now.Before(h.until) {
		return
	}
	switch {
	case h.state == aside && h.silent == 0:
		h.state = probed
	case h.state == stalled: // one request more; it answers perhaps, and only the others take long
		h.extra = h.silent + 1
		h.until = now.Add(min(lastTry, firstTry<<min(h.times, 10)))
		h.times++
	}
}

// badness is zero for one that is well; the worst has the most.
func (h *Health) badness(usual, failing float64, tail time.Duration, now time.Time) float64 {
	if h.ill(usual, failing) {
		return 1 + h.service/max(1, usual) + h.failing*1000
	}
	if tail > 0 && h.Quiet(now) > max(tooSlow*tail, Period) {
		return 1
	}
	return 0
}

func (h *Health) ill(usual, failing float64) bool {
	if h.answers < aRound {
		return false
	}
	slow := h.service > tooSlow*usual && float64(h.quick) > usual
	return slow || h.failing > tooBad && h.failing > tooSlow*failing
}

// median is that of those who have answered enough, and how many those are. Of
// two it is the better one.
func (j *Judgement) median(all []*Health, of func(*Health) float64) (float64, int) {
	j.numbers = j.numbers[:0]
	for _, h := range all {
		if h.answers >= aRound || h.Aside() && h.answers > 0 {
			j.numbers = append(j.numbers, of(h))
		}
	}
	n := len(j.numbers)
	if n == 0 {
		return 0, 0
	}
	slices.Sort(j.numbers)
	return j.numbers[(n-1)/2], n
}
