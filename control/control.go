// Package control keeps endpoints as they should be.
//
// What people wish stands in a [Store] as serving.Endpoint records; a [Desk]
// takes their orders and refuses what cannot be. A [Keeper] looks at one
// endpoint at a time, asks control/plan what separates the wish from the world,
// and does those steps: it prepares what is new, states sizes to a [Platform],
// and moves traffic by publishing routes. Tending an endpoint again is always
// safe, and nothing that matters is only in memory.
//
// # What it does not do
//
// It does not start processes or pods, fetch models, or carry requests: it
// states wishes to those who do, through the interfaces below. It decides
// nothing either: the order of a rollout is control/plan's.
package control

import (
	"context"
	"io"
	"time"

	"loadline.dev/loadline/serving"
)

// A Platform runs replicas. Its calls state a wish and may be repeated freely;
// the platform gets there in its own time, replaces replicas that die, and lets
// those it takes away finish what they have taken.
type Platform interface {
	// Apply makes rev run with size replicas. Size zero stops it; the
	// assignment is then not looked at. Replicas of a revision that has some
	// already are not restarted, whatever the assignment says.
	Apply(ctx context.Context, rev serving.Revision, a serving.Assignment, size int) error

	// Replicas reports what runs for an endpoint, as last seen, those that drain
	// included. An empty id asks for those of every endpoint.
	Replicas(ctx context.Context, endpointID string) ([]serving.Replica, error)
}

// A Watcher is a [Platform] that can say when a replica changes.
type Watcher interface {
	// Changes sends the ids of endpoints whose replicas changed, until ctx ends.
	Changes(ctx context.Context) <-chan string
}

// A Store keeps the wishes. Names are unique within a tenant without regard to
// case. What Create, Update and Delete acknowledged survives a loss of power.
type Store interface {
	// Create adds e as version 1, or fails with [serving.Exists].
	Create(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error)

	// Update replaces the record whose Version is e's and returns it with the
	// next one; [serving.Conflict] says that somebody else was faster.
	Update(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error)

	// Delete removes the record if it still is of that version.
	Delete(ctx context.Context, tenant, name string, version int64) error

	// Get returns the record, or [serving.NotFound].
	Get(ctx context.Context, tenant, name string) (serving.Endpoint, error)

	// List returns a tenant's records by name; an empty tenant asks for all.
	List(ctx context.Context, tenant string) ([]serving.Endpoint, error)

	// Watch sends the key of each record written from now on, until ctx ends.
	// Writes of one record that nobody has heard of yet are told once.
	Watch(ctx context.Context) <-chan Key
}

// A Key names an endpoint.
type Key struct{ Tenant, Name string }

// A Drawer keeps small values by key. Control keeps recipes and events in one.
type Drawer interface {
	Get(ctx context.Context, key string) ([]byte, error) // serving.NotFound when absent
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error // of an absent key is fine
	Keys(ctx context.Context, prefix string) ([]string, error)
}

// A Preparer turns an entity into a recipe. It may be called again with the same
// entity at any time, and is then quick.
type Preparer interface {
	// Prepare calls report with each phase as it begins, moves on and ends. In
	// the Fix of an error, NAME stands for the endpoint, which it does not know.
	Prepare(ctx context.Context, e serving.Entity, report func(serving.Phase)) (serving.Recipe, error)
}

// A Renewer is a [Preparer] that can bring back what an earlier recipe points
// at (model bytes, environment) when it was damaged or removed. Control asks
// before it starts replicas of a revision that was prepared by an earlier
// process. The name is never resolved anew: the recipe is what was promised.
type Renewer interface {
	Renew(ctx context.Context, e serving.Entity, r serving.Recipe, report func(serving.Phase)) (serving.Recipe, error)
}

// A Router hears where traffic goes. When Publish returns, no request that
// begins later goes by an older route.
type Router interface {
	Publish(r serving.Route)
	Withdraw(tenant, name string)
}

// A Sizer says how many replicas an entity should have. It is asked with the
// revision whose demand counts: a newcomer is also sized for the demand of the
// revision it follows.
type Sizer interface {
	Size(rev serving.Revision, e serving.Entity, ready int, now time.Time) int
}

// A Reasoner is a [Sizer] that can say in a clause why it last changed a size.
type Reasoner interface {
	Why(rev serving.Revision, entity string) string
}

// AsWritten sizes an entity as its user wrote: Min, and at least one.
type AsWritten struct{}

// Size implements [Sizer].
func (AsWritten) Size(_ serving.Revision, e serving.Entity, _ int, _ time.Time) int {
	return max(1, e.Scale.Min)
}

// A LogSource has the output of replicas.
type LogSource interface {
	// Logs returns what the engines of an entity wrote, oldest first. An empty
	// replica asks for those of every replica. With follow it goes on until ctx
	// ends or the reader is closed.
	Logs(ctx context.Context, q LogQuery) (io.ReadCloser, error)
}

// A LogQuery says whose output is asked for.
type LogQuery struct {
	EndpointID string
	Entity     string // empty is every entity
	Replica    string // empty is every replica
	Follow     bool
}

// A BuildLogSource has the logs of preparations.
type BuildLogSource interface {
	// BuildLog returns the log of the preparation of a revision, or
	// [serving.NotFound].
	BuildLog(ctx context.Context, digest string) ([]byte, error)

	// EntityLog returns the log of the last preparation of an entity, also of
	// one that failed before its revision was known.
	EntityLog(ctx context.Context, e serving.Entity) ([]byte, error)
}
