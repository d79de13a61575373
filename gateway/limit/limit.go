// Package limit decides whether one call more is within a rate.
//
// It is the generic cell rate algorithm (ITU-T I.371): a bucket is one number,
// the moment at which it would be full again if nobody called any more. So
// there is nothing to refill, nothing to reset, and no window at whose edge
// twice as much passes as a rate allows on average. No clock is read here:
// moments are nanoseconds of any clock that does not go back.
//
// It does not know who is calling, or what happens to a call that is refused.
package limit

import (
	"math"
	"sync/atomic"
	"time"
)

// A Rate is how often something may be called. The zero Rate allows nothing.
type Rate struct {
	gap    int64 // nanoseconds that one call is worth; zero allows nothing
	period int64 // nanoseconds that may be used at once
}

// Every is a rate of calls within each period. All of them may come at once;
// then one more is allowed each period ÷ calls, so within any stretch of a
// period no more than twice calls pass.
func Every(calls int, period time.Duration) Rate {
	if calls <= 0 || period <= 0 {
		return Rate{period: int64(max(1, period))}
	}
	return Rate{gap: max(1, int64(period)/int64(calls)), period: int64(period)}
}

// part is what fraction of the rate is.
func (r Rate) part(fraction float64) Rate {
	if r.gap == 0 || fraction <= 0 {
		return Rate{period: r.period}
	}
	return Rate{gap: int64(min(float64(r.gap)/fraction, math.MaxInt64/4)), period: r.period}
}

// most is how far ahead of now a bucket may be.
func (r Rate) most() int64 { return max(r.period, r.gap) } // one call at least, however small a part it is

// A State is what is left after a call was asked for.
type State struct {
	OK    bool
	Left  int           // calls that would be allowed right now
	Full  time.Duration // until all calls are there again
	Again time.Duration // until one is; zero when OK
}

// A Bucket is how much of a rate is used up. The zero Bucket is full.
type Bucket struct{ full atomic.Int64 }

// Take asks for one call at now. It is safe for concurrent use and one atomic
// operation.
func (b *Bucket) Take(r Rate, now int64) State {
	if r.gap == 0 {
		return State{Full: time.Duration(r.period), Again: time.Duration(r.period)}
	}
	for {
		old := b.full.Load()
		next := max(old, now) + r.gap
		if over := next - now - r.most(); over > 0 {
			return State{Full: time.Duration(old - now), Again: time.Duration(over)}
		}
		if b.full.CompareAndSwap(old, next) {
			return State{OK: true, Left: int((r.most() - (next - now)) / r.gap), Full: time.Duration(next - now)}
		}
	}
}

// Undo gives back a call that was allowed and not made.
func (b *Bucket) Undo(r Rate) { b.full.Add(-r.gap) }

// Idle reports whether the bucket is full at now: then it is as good as a new one.
func (b *Bucket) Idle(now int64) bool { return b.full.Load() <= now }

// Change keeps what is left when the rate goes from old to r at now: no more
// calls are allowed at once than before. It may race with Take by as much as
// Take allows meanwhile.
func (b *Bucket) Change(old, r Rate, now int64) {
	if old.gap == 0 || r.gap == 0 {
		return
	}
	used := max(0, b.full.Load()-now)
	left := float64(old.most()-used) / float64(old.gap)
	left = min(left, float64(r.most())/float64(r.gap))
	b.full.Store(now + r.most() - int64(left*float64(r.gap)))
}

// Share is the part of a rate that one of several gateways may use for the next
// second, when mine of all calls of the last second came to it. A sixteenth is
// dealt out evenly, so that a gateway whose first caller has just come need not
// wait for the next second.
//
// The shares add up to the rate, and [Bucket.Change] hands nobody calls that
// another has used. So gateways together never allow more than one alone would
// (calls at once, then one each period ÷ calls), but for one call per gateway
// where a share is below one call. They may allow less: when callers move from
// one gateway to another, up to a second's worth of the rate is refused until
// the shares have followed.
func Share(r Rate, mine, all float64, gateways int) Rate {
	n := float64(max(1, gateways))
	if all <= 0 || mine < 0 {
		return r.part(1 / n)
	}
	const even = 1.0 / 16
	return r.part((1-even)*min(1, mine/all) + even/n)
}

// A Book keeps a bucket for each of many callers, all at one rate, and forgets
// those that are as good as new. Its owner serializes calls.
type Book struct {
	buckets map[string]*Bucket
	sweep   int // how many there are when the idle ones are forgotten next
}

// Bucket returns the bucket of a caller at now.
func (b *Book) Bucket(caller string, now int64) *Bucket {
	if found, ok := b.buckets[caller]; ok {
		return found
	}
	if b.buckets == nil {
		b.buckets, b.sweep = map[string]*Bucket{}, leastSweep
	}
	if len(b.buckets) >= b.sweep {
		for name, bucket := range b.buckets {
			if bucket.Idle(now) {
				delete(b.buckets, name)
			}
		}
		b.sweep = max(leastSweep, 2*len(b.buckets))
	}
	made := new(Bucket)
	b.buckets[caller] = made
	return made
}

// Change is [Bucket.Change] for every caller. A caller that comes later finds
// all of the new rate.
func (b *Book) Change(old, r Rate, now int64) {
	for _, bucket := range b.buckets {
		bucket.Change(old, r, now)
	}
}

const leastSweep = 256

// Len is how many callers are remembered.
func (b *Book) Len() int { return len(b.buckets) }

// Fair reports whether one of several that share a resource may hold mine of
// it while all of them together hold all, of most: as much as is still free.
// One alone can fill half, two a third each, and so on; whoever comes next
// finds as much as each of those has. (Dynamic thresholds: A. Choudhury and
// E. Hahne, IEEE/ACM Transactions on Networking 6(2), 1998, with α = 1.)
func Fair(mine, all, most int64) bool { return mine <= most-all }
