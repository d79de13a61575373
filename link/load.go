package link

import (
	"encoding/binary"
	"math"
	"strings"

	"loadline.dev/loadline/serving"
)

// counters lists the fields of Counters in wire order. New ones go to the end.
func (c *Counters) list() [10 + len(CallSizes)]*uint64 {
	return [...]*uint64{&c.Answered, &c.NotTaken, &c.Broken, &c.TimedOut, &c.Cancelled, &c.Columns, &c.Raw, &c.Restarts,
		&c.Beside, &c.Inside,
		&c.Calls[0], &c.Calls[1], &c.Calls[2], &c.Calls[3], &c.Calls[4], &c.Calls[5], &c.Calls[6]}
}

// list is the fields of Pressure in wire order, behind the counters.
func (p *Pressure) list() [4]*uint64 {
	return [...]*uint64{&p.CPU, &p.Memory, &p.IOWait, &p.Throttled}
}

// oldCounters is how many of them every version has sent.
const oldCounters = 8

func appendLoad(b []byte, l *Load) []byte {
	start := len(b)
	b = begin(b, kindLoad, 0, 0)
	b = binary.AppendUvarint(b, l.Sequence)
	for _, n := range [...]int{l.InFlight, l.Waiting, l.Line, int(l.Service)} {
		b = binary.AppendUvarint(b, uint64(max(0, n)))
	}
	b = appendText(b, string(l.State))
	for _, n := range l.Counters.list() {
		b = binary.AppendUvarint(b, *n)
	}
	for _, n := range l.Pressure.list() {
		b = binary.AppendUvarint(b, *n)
	}
	return finish(b, start)
}

// parseLoad leaves alone what a later version has written behind.
func parseLoad(payload []byte, l *Load) error {
	c := cursor{rest: view(payload)}
	l.Sequence = c.number()
	l.InFlight = c.count(math.MaxInt32)
	l.Waiting = c.count(math.MaxInt32)
	l.Line = c.count(math.MaxInt32)
	l.Service = c.duration()
	if state := c.text(); state != string(l.State) { // else the text is here already
		l.State = serving.State(strings.Clone(state))
	}
	for i, n := range l.Counters.list() {
		if i >= oldCounters && len(c.rest) == 0 {
			*n = 0 // an older agent does not count this
			continue
		}
		*n = c.number()
	}
	for _, n := range l.Pressure.list() {
		if *n = 0; len(c.rest) > 0 {
			*n = c.number()
		}
	}
	if c.bad {
		return malformed("load report")
	}
	return nil
}
