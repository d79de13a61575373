// Package feed tells gateways in processes of their own what they need to know:
// routes, by what callers are judged, and which other gateways there are. A
// [Hub] beside the controller tells, a [Follower] beside each gateway listens.
//
// News come as a stream of JSON lines, numbered; a gateway says which it has
// taken in, so that a route that was left is known to be left everywhere. A
// follower that loses its hub goes on with what it knows, asks again, and then
// hears everything from the beginning.
//
// It decides nothing about routes and judges nobody. Who may connect is for
// whoever serves the hub.
package feed

import (
	"encoding/json"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

// Path is where a hub is served. Below it lies, for a gateway's ID,
//
//	GET  ID/feed?addr=HOST:PORT   the news; addr is where other gateways reach it
//	POST ID/served                the number of the news it serves by, and what its entities did since, as JSON
//	POST ID/certificate           a request for a certificate, in PEM, answered in PEM
//	POST ID/calls                 what its endpoints with rate limits were asked, answered by what all were
//	POST ID/leaving               it takes nothing new; the feed goes on
const Path = "/api/loadline/v1/gateways"

// A Router does what routes say.
type Router interface {
	Publish(r serving.Route)
	Withdraw(tenant, name string)
}

// A Member is a gateway that is there.
type Member struct {
	ID   string
	Addr string // HOST:PORT where other gateways open links to it
}

// A name is an endpoint's.
type name struct{ Tenant, Endpoint string }

// news is one line of a feed. What is not there has not changed.
type news struct {
	Number   uint64          `json:",omitempty"` // zero while what is there is told, before Synced
	Route    *serving.Route  `json:",omitempty"`
	Gone     *name           `json:",omitempty"`
	Keys     json.RawMessage `json:",omitempty"` // by what callers are judged; whoever serves the hub knows its form
	Gateways []Member        `json:",omitempty"` // all, the receiver among them
	Synced   bool            `json:",omitempty"` // all there is was told: what was not is gone
}

// served is what a follower says of itself.
type served struct {
	Number  uint64
	Reports []autopilot.Report `json:",omitempty"`
}
