package route

import "maps"

// A Table maps (tenant, name) to whatever the gateway keeps for an endpoint.
// It never changes: With and Without make a new one, so that readers need no lock.
type Table[E any] struct{ endpoints map[key]E }

type key struct{ tenant, name string }

// Find returns the endpoint of that name, and whether there is one.
func (t *Table[E]) Find(tenant string, name []byte) (E, bool) {
	e, ok := t.endpoints[key{tenant, string(name)}] // does not allocate
	return e, ok
}

// Len is how many endpoints there are.
func (t *Table[E]) Len() int { return len(t.endpoints) }

// All calls yield for each endpoint, in no order.
func (t *Table[E]) All(yield func(E) bool) {
	for _, e := range t.endpoints {
		if !yield(e) {
			return
		}
	}
}

// With is the table with e under that name.
func (t *Table[E]) With(tenant, name string, e E) *Table[E] {
	next := make(map[key]E, len(t.endpoints)+1)
	maps.Copy(next, t.endpoints)
	next[key{tenant, name}] = e
	return &Table[E]{next}
}

// Without is the table with nothing under that name.
func (t *Table[E]) Without(tenant, name string) *Table[E] {
	next := maps.Clone(t.endpoints)
	delete(next, key{tenant, name})
	return &Table[E]{next}
}
