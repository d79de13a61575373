package http1

import (
	"math/rand/v2"
	"net/http"
	"testing"
)

// For tests that hold the whole gateway to what the parser is held to.

// NewOracle starts a server of net/http that tells how it splits a stream.
func NewOracle(t testing.TB) func(stream []byte) []Request {
	o := newOracle(t)
	return func(stream []byte) []Request {
		whole, _ := o.split(stream)
		return whole
	}
}

// A Request is what a stream was split into.
type Request = request

// Asked is r, read to its end, as a Request.
func Asked(r *http.Request, body []byte) Request { return asked(r, body) }

// Stream makes a stream of requests, good and bad.
func Stream(dice *rand.Rand) []byte {
	if dice.IntN(2) == 0 {
		return generate(dice)
	}
	return mutate(dice, corpus())
}

// TheEnd is a last request that ends a connection.
const TheEnd = theEnd

// Comparable reports whether net/http reads as many trailers as the stream has.
func Comparable(stream []byte) bool {
	all, _ := exchanges(stream, len(stream))
	for _, e := range all {
		if e.trailers > theirTrailers {
			return false
		}
	}
	return true
}
