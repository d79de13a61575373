// Package route decides which endpoint a request is for, and which of its
// entities answers. It knows paths, names and weights.
//
// It does not know replicas' health, who is asking, or HTTP beyond a method and
// a path. It rolls no dice: the caller brings a random number.
package route

import (
	"bytes"

	"loadline.dev/loadline/serving"
)

// A Kind says what a path means.
type Kind uint8

const (
	// Elsewhere is everything that is not data plane: API, health, metrics.
	Elsewhere Kind = iota

	// Invoke scores: POST …/invocations.
	Invoke

	// Engine is any other path of the engine itself: only entities that are
	// [serving.RouteEntity.Raw] have such.
	Engine

	// Ping and Version are what MLflow's own server answers beside invocations;
	// only where one endpoint is served at the root.
	Ping
	Version
)

// A Place is what a path names. Its slices point into the path.
type Place struct {
	Kind     Kind
	Endpoint []byte // empty: the one served at the root
	Entity   []byte // empty: drawn by weight
	Path     []byte // the engine's path; empty unless Kind is Invoke or Engine
}

const prefix = "/serving-endpoints/"

var invocations = []byte("/invocations")

// Read says what path means; rooted, when one endpoint is also served at the
// root as MLflow's server does it:
//
//	/serving-endpoints/NAME/REST                       REST of the endpoint's engine
//	/serving-endpoints/NAME/served-models/ENTITY/REST  REST of that entity's engine
//	/invocations, /ping, /health, /version             when rooted
//
// where REST is invocations for every engine. Escapes are not read: names need none.
func Read(path []byte, rooted bool) Place {
	if rest, ok := bytes.CutPrefix(path, []byte(prefix)); ok {
		return readEndpoint(rest)
	}
	if !rooted {
		return Place{}
	}
	switch string(path) {
	case "/invocations":
		return Place{Kind: Invoke, Path: path}
	case "/ping", "/health":
		return Place{Kind: Ping, Path: path}
	case "/version":
		return Place{Kind: Version, Path: path}
	}
	return Place{}
}

// readEndpoint reads what follows the prefix.
func readEndpoint(rest []byte) Place {
	slash := bytes.IndexByte(rest, '/')
	if slash <= 0 {
		return Place{}
	}
	p := Place{Kind: Engine, Endpoint: rest[:slash], Path: rest[slash:]}
	if named, ok := bytes.CutPrefix(p.Path, []byte("/served-models/")); ok {
		slash := bytes.IndexByte(named, '/')
		if slash <= 0 {
			return Place{}
		}
		p.Entity, p.Path = named[:slash], named[slash:]
	}
	if bytes.Equal(p.Path, invocations) {
		p.Kind = Invoke
	}
	return p
}

// Draw picks one of the entities by their percentages: dice is uniform over
// all of its values. It returns -1 when no entity has any traffic.
func Draw(entities []serving.RouteEntity, dice uint64) int {
	total, last := uint64(0), -1
	for i := range entities {
		if entities[i].Percent > 0 {
			total += uint64(entities[i].Percent)
			last = i
		}
	}
	if last < 0 || total == uint64(entities[last].Percent) {
		return last
	}
	// The top half of dice × total is uniform over 0 … total-1.
	at := dice >> 32 * total >> 32
	for i := range entities {
		share := uint64(max(0, entities[i].Percent))
		if at < share {
			return i
		}
		at -= share
	}
	return last
}
