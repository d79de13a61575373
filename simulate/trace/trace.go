// Package trace reads recorded traffic, in every format that it knows by its
// own header, and turns it into one form: what arrived in each second, or each
// request with its time in service.
//
// It knows nothing of replicas. Traffic that was recorded more coarsely than by
// the second is drawn from dice that the caller brings.
package trace

import "fmt"

// A Trace is traffic. One of Counts and Arrivals is set.
type Trace struct {
	// First is the number of its first second, as the file counts.
	First int64

	// Counts is how many requests came in each second; where they lie within it
	// is not known.
	Counts []uint32

	// Arrivals are single requests in order of arrival.
	Arrivals []Arrival
}

// An Arrival is one request.
type Arrival struct {
	At      int64 // nanoseconds since the first second began
	Service int64 // nanoseconds in service
}

const second = int64(1e9)

// Seconds is how long the trace is.
func (t Trace) Seconds() int {
	if n := len(t.Arrivals); n > 0 {
		return int(t.Arrivals[n-1].At/second) + 1
	}
	return len(t.Counts)
}

// Count is how many requests came in second s, counted from zero. It is for
// traces of counts.
func (t Trace) Count(s int) int { return int(t.Counts[s]) }

// Requests is how many there are in all.
func (t Trace) Requests() int64 {
	n := int64(len(t.Arrivals))
	for _, c := range t.Counts {
		n += int64(c)
	}
	return n
}

func (t Trace) String() string {
	return fmt.Sprintf("%d requests in %d seconds", t.Requests(), t.Seconds())
}

// Cut is the stretch that begins from seconds after the first and is at most
// length seconds long.
func (t Trace) Cut(from, length int) Trace {
	from = min(max(from, 0), t.Seconds())
	length = min(max(length, 0), t.Seconds()-from)
	cut := Trace{First: t.First + int64(from)}
	if t.Arrivals == nil {
		cut.Counts = t.Counts[from : from+length]
		return cut
	}
	cut.Arrivals = []Arrival{}
	for _, a := range t.Arrivals {
		if a.At -= int64(from) * second; a.At >= 0 && a.At < int64(length)*second {
			cut.Arrivals = append(cut.Arrivals, a)
		}
	}
	return cut
}
