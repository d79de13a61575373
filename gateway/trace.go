package gateway

import (
	"encoding/hex"
	"math/rand/v2"
)

// W3C Trace Context (https://www.w3.org/TR/trace-context/): a traceparent is
// VERSION-TRACE-SPAN-FLAGS, in hexadecimal. What comes in is continued: the same
// trace, with a span of this hop as the engine's parent. Without one, or with
// one that is none, a trace begins that nobody has asked to record.

// Where the parts of a traceparent lie.
const (
	traceAt, traceEnd = 3, 35
	spanAt, spanEnd   = 36, 52
	flagsAt, traceLen = 53, 55
	maxState          = 512 // bytes of tracestate that are passed on
)

// A trace is what the engine is told of the request at hand.
type trace struct {
	text    [traceLen]byte
	state   []byte // the caller's; of no meaning without its traceparent
	sampled bool   // somebody upstream records this trace
}

// id is what exemplars and logs know the trace by.
func (t *trace) id() string { return string(t.text[traceAt:traceEnd]) }

// trace takes up the caller's trace, or begins one. An identifier of our own
// making is a trace's as well as a request's.
func (c *conn) trace() {
	t := &c.traced
	parent, n := c.head.Field("traceparent")
	if n == 1 && traceable(parent) {
		copy(t.text[:], parent)
		var states int
		if t.state, states = c.head.Field("tracestate"); states > 1 || len(t.state) > maxState {
			t.state = nil
		}
		low := t.text[traceLen-1]
		t.sampled = low <= '9' && low&1 == 1 || low == 'b' || low == 'd' || low == 'f'
	} else {
		copy(t.text[:], "00-00000000000000000000000000000000-0000000000000000-00")
		if c.idOurs {
			copy(t.text[traceAt:traceEnd], c.id[:c.idLen])
		} else {
			random(t.text[traceAt:traceEnd])
		}
		t.state, t.sampled = nil, false
	}
	t.text[0], t.text[1] = '0', '0'
	random(t.text[spanAt:spanEnd])
}

// traceable reports whether v is a traceparent that can be continued. Those of
// later versions may be longer; what they begin with means the same.
func traceable(v []byte) bool {
	if len(v) < traceLen || v[2] != '-' || v[traceEnd] != '-' || v[spanEnd] != '-' {
		return false
	}
	if len(v) > traceLen && (string(v[:2]) == "00" || v[traceLen] != '-') {
		return false
	}
	for i, b := range v[:traceLen] {
		if i != 2 && i != traceEnd && i != spanEnd && (b < '0' || b > '9') && (b < 'a' || b > 'f') {
			return false
		}
	}
	return string(v[:2]) != "ff" && !zeros(v[traceAt:traceEnd]) && !zeros(v[spanAt:spanEnd])
}

func zeros(digits []byte) bool {
	for _, b := range digits {
		if b != '0' {
			return false
		}
	}
	return true
}

// random fills text with hexadecimal digits, 16 at a time, never all zeros.
func random(text []byte) {
	for ; len(text) >= 16; text = text[16:] {
		var b [8]byte
		r := rand.Uint64() | 1
		for i := range b {
			b[i] = byte(r >> (8 * i))
		}
		hex.Encode(text, b[:])
	}
}
