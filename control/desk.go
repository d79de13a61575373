package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"loadline.dev/loadline/serving"
)

// A Desk takes the orders of people. Each order is committed before its method
// returns; the [Keeper] then makes it true.
//
// Orders about an endpoint that is missing or being deleted fail with
// [serving.NotFound]; what would change the config while one is being made
// ready fails with [serving.Conflict].
type Desk struct {
	Store  Store
	Keeper *Keeper

	// Rewire renews what the API echoes of a config that the desk itself changed
	// (traffic, scale): it is given the new config with the old Wire. Nil keeps
	// the old.
	Rewire func(serving.Config) []byte

	Output LogSource      // nil has none
	Builds BuildLogSource // nil has none
}

// Create adds an endpoint whose first config is e.Pending. Of e, the Tenant,
// Name, Creator, Description, Tags, Quota, Wire and Pending count.
func (d *Desk) Create(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error) {
	if err := serving.CheckName(e.Name); err != nil {
		return serving.Endpoint{}, err
	}
	if e.Pending == nil {
		return serving.Endpoint{}, refuse(serving.Invalid, e.Name, "", "a new endpoint needs a config: name at least one model")
	}
	if err := serving.CheckConfig(*e.Pending); err != nil {
		return serving.Endpoint{}, err
	}
	if err := serving.CheckQuota(e.Quota); err != nil {
		return serving.Endpoint{}, err
	}
	now := time.Now().UTC()
	fresh := serving.Endpoint{
		Tenant: e.Tenant, Name: e.Name, ID: newID(),
		Creator: e.Creator, Description: e.Description, Wire: e.Wire,
		Created: now, Updated: now,
		Tags: mergeTags(nil, e.Tags, nil), Quota: e.Quota,
		Pending: asOrdered(*e.Pending, 1, now),
	}
	if err := d.awaitFarewell(ctx, e.Tenant, e.Name); err != nil {
		return serving.Endpoint{}, err
	}
	made, err := d.Store.Create(ctx, fresh)
	if errors.Is(err, serving.Exists) {
		return serving.Endpoint{}, &serving.Error{Op: "create", Subject: e.Name, Kind: serving.Exists,
			Err: errors.New("an endpoint of that name is there (names differ by more than upper and lower case)"),
			Fix: "choose another name, or update it: loadline deploy " + e.Name + " MODEL"}
	}
	if err != nil {
		return serving.Endpoint{}, err
	}
	d.Keeper.note(made, "", "Created", "created by "+orSomebody(e.Creator))
	return made, nil
}

// awaitFarewell gives an endpoint of that name that is being deleted a moment
// to be gone: a client that deletes and creates again should not have to know
// that replicas drain in between.
func (d *Desk) awaitFarewell(ctx context.Context, tenant, name string) error {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	writes := d.Store.Watch(ctx)
	for {
		old, err := d.Store.Get(ctx, tenant, name)
		switch {
		case errors.Is(err, serving.NotFound):
			return nil
		case err != nil:
			return err
		case !old.Deleting:
			return nil // Create says that it exists
		}
		if _, open := <-writes; !open {
			return refuse(serving.Conflict, name, "loadline wait or try again in a moment",
				"an endpoint of that name is still being deleted; its replicas finish their last requests")
		}
	}
}

const farewell = 10 * time.Second

// SetConfig orders a new config; the old one answers until it is ready.
func (d *Desk) SetConfig(ctx context.Context, tenant, name string, c serving.Config) (serving.Endpoint, error) {
	if err := serving.CheckConfig(c); err != nil {
		return serving.Endpoint{}, err
	}
	e, err := d.change(ctx, tenant, name, func(e *serving.Endpoint, now time.Time) error {
		if err := settled(*e); err != nil {
			return err
		}
		e.Pending = asOrdered(c, e.NextConfigVersion(), now)
		e.Failed = nil
		return nil
	})
	if err == nil {
		d.Keeper.note(e, "", "UpdateStarted", fmt.Sprintf("config %d is being made ready", e.Pending.Version))
	}
	return e, err
}

// Rollback orders a new config with the content of an earlier one; zero means
// the one before the active one. What ran then runs again, even where a name
// would resolve to something else today.
func (d *Desk) Rollback(ctx context.Context, tenant, name string, to int) (serving.Endpoint, error) {
	e, err := d.change(ctx, tenant, name, func(e *serving.Endpoint, now time.Time) error {
		if err := settled(*e); err != nil {
			return err
		}
		old, err := earlier(*e, to)
		if err != nil {
			return err
		}
		to = old.Version
		again := cloneConfig(old)
		again.Version, again.Created = e.NextConfigVersion(), now
		e.Pending, e.Failed = &again, nil
		return nil
	})
	if err == nil {
		d.Keeper.note(e, "", "RollbackStarted", fmt.Sprintf("config %d brings back config %d", e.Pending.Version, to))
	}
	return e, err
}

// earlier finds the config that a roll-back means.
func earlier(e serving.Endpoint, to int) (serving.Config, error) {
	if to == 0 && len(e.History) > 0 {
		return e.History[len(e.History)-1], nil
	}
	if to != 0 && to == e.Active.Version {
		return e.Active, nil
	}
	var known []string
	for _, c := range e.History {
		if c.Version == to {
			return c, nil
		}
		known = append(known, fmt.Sprint(c.Version))
	}
	if len(known) == 0 {
		return serving.Config{}, refuse(serving.NotFound, e.Name, "loadline describe "+e.Name,
			"there is no earlier config to roll back to")
	}
	return serving.Config{}, refuse(serving.NotFound, e.Name, "loadline describe "+e.Name,
		"config %d was never active or is forgotten; kept are %s", to, strings.Join(known, ", "))
}

// SetSplits moves traffic between the entities that are served.
func (d *Desk) SetSplits(ctx context.Context, tenant, name string, splits []serving.Split) (serving.Endpoint, error) {
	e, err := d.amend(ctx, tenant, name, func(c *serving.Config) error {
		c.Splits = slices.Clone(splits)
		return nil
	})
	if err == nil {
		d.Keeper.note(e, "", "TrafficSet", "traffic is "+sharesOf(e.Active.Splits))
	}
	return e, err
}

// SetScale changes how many replicas an entity wishes. An empty entity means
// the only one.
func (d *Desk) SetScale(ctx context.Context, tenant, name, entity string, s serving.Scale) (serving.Endpoint, error) {
	e, err := d.amend(ctx, tenant, name, func(c *serving.Config) error {
		if entity == "" && len(c.Entities) == 1 {
			entity = c.Entities[0].Name
		}
		for i := range c.Entities {
			if c.Entities[i].Name == entity {
				c.Entities[i].Scale = s
				return nil
			}
		}
		return refuse(serving.NotFound, name, "loadline describe "+name,
			"no served entity %q; served are %s", entity, strings.Join(entityNames(*c), ", "))
	})
	if err == nil {
		d.Keeper.note(e, entity, "ScaleSet", fmt.Sprintf("min %d, max %d", s.Min, s.Max))
	}
	return e, err
}

// amend writes a new active config that needs nothing prepared.
func (d *Desk) amend(ctx context.Context, tenant, name string, edit func(*serving.Config) error) (serving.Endpoint, error) {
	return d.change(ctx, tenant, name, func(e *serving.Endpoint, now time.Time) error {
		if err := settled(*e); err != nil {
			return err
		}
		if e.Active.Version == 0 {
			return refuse(serving.Conflict, name, "loadline deploy "+name+" MODEL", "no config of it has become ready yet")
		}
		next := cloneConfig(e.Active)
		if err := edit(&next); err != nil {
			return err
		}
		if err := serving.CheckConfig(next); err != nil {
			return err
		}
		next.Version, next.Created = e.NextConfigVersion(), now
		if d.Rewire != nil {
			next.Wire = d.Rewire(next)
		}
		e.History = remember(e.History, e.Active)
		e.Active = next
		return nil
	})
}

// SetTags adds and removes tags and returns those there are now, by key.
func (d *Desk) SetTags(ctx context.Context, tenant, name string, add []serving.Tag, remove []string) ([]serving.Tag, error) {
	e, err := d.change(ctx, tenant, name, func(e *serving.Endpoint, _ time.Time) error {
		e.Tags = mergeTags(e.Tags, add, remove)
		return nil
	})
	return e.Tags, err
}

// SetQuota changes what callers may use of an endpoint, at once.
func (d *Desk) SetQuota(ctx context.Context, tenant, name string, edit func(*serving.Quota)) (serving.Endpoint, error) {
	e, err := d.change(ctx, tenant, name, func(e *serving.Endpoint, _ time.Time) error {
		e.Quota.Rates = slices.Clone(e.Quota.Rates)
		edit(&e.Quota)
		return serving.CheckQuota(e.Quota)
	})
	if err == nil {
		d.Keeper.note(e, "", "LimitsSet", "callers may "+e.Quota.String())
	}
	return e, err
}

// Delete withdraws an endpoint at once; its record goes with its last replica.
func (d *Desk) Delete(ctx context.Context, tenant, name string) error {
	e, err := d.change(ctx, tenant, name, func(e *serving.Endpoint, _ time.Time) error {
		e.Deleting = true
		return nil
	})
	if err == nil {
		d.Keeper.note(e, "", "Deleted", "answers no more; its replicas finish what they have")
	}
	return err
}

// Get returns an endpoint.
func (d *Desk) Get(ctx context.Context, tenant, name string) (serving.Endpoint, error) {
	e, err := d.Store.Get(ctx, tenant, name)
	if err == nil && e.Deleting || errors.Is(err, serving.NotFound) {
		return serving.Endpoint{}, &serving.Error{Op: "endpoint", Subject: short(name), Kind: serving.NotFound,
			Fix: "loadline ls shows those there are"}
	}
	return e, err
}

// List returns a tenant's endpoints by name.
func (d *Desk) List(ctx context.Context, tenant string) ([]serving.Endpoint, error) {
	all, err := d.Store.List(ctx, tenant)
	return slices.DeleteFunc(all, func(e serving.Endpoint) bool { return e.Deleting }), err
}

// Status says what is seen of an endpoint.
func (d *Desk) Status(ctx context.Context, tenant, name string) (serving.Status, error) {
	e, err := d.Get(ctx, tenant, name)
	if err != nil {
		return serving.Status{}, err
	}
	return d.Keeper.status(ctx, e)
}

// Events returns what happened to an endpoint, oldest first; the older are forgotten.
func (d *Desk) Events(ctx context.Context, tenant, name string) ([]serving.Event, error) {
	e, err := d.Get(ctx, tenant, name)
	if err != nil {
		return nil, err
	}
	return d.Keeper.events(ctx, e.ID)
}

// Logs returns what an endpoint's replicas wrote; q.EndpointID is filled in.
func (d *Desk) Logs(ctx context.Context, tenant, name string, q LogQuery) (io.ReadCloser, error) {
	e, err := d.Get(ctx, tenant, name)
	if err != nil {
		return nil, err
	}
	if d.Output == nil {
		return nil, refuse(serving.Unavailable, name, "", "this platform keeps no logs of replicas")
	}
	if q.Entity != "" && !slices.Contains(everyEntityName(e), q.Entity) {
		return nil, refuse(serving.NotFound, name, "loadline describe "+name, "no served entity %q", short(q.Entity))
	}
	q.EndpointID = e.ID
	return d.Output.Logs(ctx, q)
}

// BuildLogs tells how the newest preparation of an entity went: its phases,
// then the log it left.
func (d *Desk) BuildLogs(ctx context.Context, tenant, name, entity string) (string, error) {
	e, err := d.Get(ctx, tenant, name)
	if err != nil {
		return "", err
	}
	st, err := d.Keeper.status(ctx, e)
	if err != nil {
		return "", err
	}
	i := newest(st.Entities, entity)
	if i < 0 {
		return "", refuse(serving.NotFound, name, "loadline describe "+name, "no served entity %q", short(entity))
	}
	log, err := d.buildLog(ctx, st.Entities[i])
	if err != nil && !errors.Is(err, serving.NotFound) {
		return "", err
	}
	if len(log) > 0 {
		return string(log), nil
	}
	// No log was kept; what is remembered of the phases still says something.
	var text strings.Builder
	writePhases(&text, st.Entities[i])
	return text.String(), nil
}

func (d *Desk) buildLog(ctx context.Context, st serving.EntityStatus) ([]byte, error) {
	switch {
	case d.Builds == nil:
		return nil, nil
	case st.Revision.Digest != "":
		return d.Builds.BuildLog(ctx, st.Revision.Digest)
	}
	return d.Builds.EntityLog(ctx, st.Entity)
}

// change reads, edits and writes a record, again when somebody else was faster.
func (d *Desk) change(ctx context.Context, tenant, name string, edit func(*serving.Endpoint, time.Time) error) (serving.Endpoint, error) {
	for {
		e, err := d.Get(ctx, tenant, name)
		if err != nil {
			return serving.Endpoint{}, err
		}
		now := time.Now().UTC()
		if err := edit(&e, now); err != nil {
			return serving.Endpoint{}, err
		}
		e.Updated = now
		written, err := d.Store.Update(ctx, e)
		if errors.Is(err, serving.Conflict) && ctx.Err() == nil {
			continue
		}
		return written, err
	}
}
