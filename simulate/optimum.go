package simulate

import (
	"math"
	"time"

	"loadline.dev/loadline/simulate/trace"
)

// Needed is how many replicas cover each second: what arrives in it times the
// service time, over what one replica carries.
func Needed(t trace.Trace, service time.Duration, capacity int) []int {
	needed := make([]int, t.Seconds())
	if t.Arrivals != nil {
		work := make([]float64, len(needed))
		for _, a := range t.Arrivals {
			work[a.At/second] += time.Duration(a.Service).Seconds()
		}
		for s, w := range work {
			needed[s] = cover(w, capacity)
		}
		return needed
	}
	for s := range needed {
		needed[s] = cover(float64(t.Count(s))*service.Seconds(), capacity)
	}
	return needed
}

func cover(work float64, capacity int) int {
	const hair = 1e-9 // 80 requests of 100 ms are one replica of 8, whatever 0.1 is in binary
	return int(math.Ceil(work/float64(capacity) - hair))
}

// Optimum is the least that an all-knowing scaler pays, in replica-seconds, when
// it covers every second: each start costs its delay, and an idle replica is
// kept if and only if its gap is at most that delay. It needs no replica when
// nothing arrives.
//
// Replica k is needed in the seconds that need at least k; the replicas are
// independent of each other, so the sum over k is the optimum. A rise or fall
// of the need is where some replica's stretch begins or ends, which makes one
// pass enough.
func Optimum(needed []int, start time.Duration) float64 {
	delay := start.Seconds()
	var ended []int // by replica, the second after it was last needed; −1 before its first
	total, now := 0.0, 0
	for s, n := range needed {
		for len(ended) < n {
			ended = append(ended, -1)
		}
		total += float64(n)
		for k := n; k < now; k++ {
			ended[k] = s
		}
		for k := now; k < n; k++ {
			if ended[k] >= 0 {
				total += min(delay, float64(s-ended[k]))
			} else {
				total += delay
			}
		}
		now = n
	}
	return total
}

// Held is how many replicas the optimum keeps ready in each second: those
// needed, and those idle in a gap that is worth keeping.
func Held(needed []int, start time.Duration) []int {
	delay := start.Seconds()
	change := make([]int, len(needed)+1)
	var ended []int
	now := 0
	for s, n := range needed {
		for len(ended) < n {
			ended = append(ended, -1)
		}
		for k := n; k < now; k++ {
			ended[k] = s
		}
		for k := now; k < n; k++ {
			if ended[k] >= 0 && float64(s-ended[k]) <= delay {
				change[ended[k]]++
				change[s]--
			}
		}
		now = n
	}
	held := make([]int, len(needed))
	kept := 0
	for s, n := range needed {
		kept += change[s]
		held[s] = n + kept
	}
	return held
}
