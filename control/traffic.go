package control

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"strconv"
	"time"

	"loadline.dev/loadline/control/plan"
	"loadline.dev/loadline/serving"
)

// publish tells the router where traffic goes, when that changed. When it
// returns, no new request goes to what the route no longer names.
func (k *Keeper) publish(ctx context.Context, e serving.Endpoint, f *file, seen []serving.Replica, now time.Time) {
	r := serving.Route{Tenant: e.Tenant, Endpoint: e.Name, ID: e.ID, Generation: f.route.Generation, Quota: e.Quota}
	switch {
	case e.Active.Version > 0:
		r.Entities = k.routeActive(ctx, e, f, seen)
	case e.Pending != nil:
		r.Entities = routeFirst(*e.Pending, "")
	case e.Failed != nil:
		r.Entities = routeFirst(e.Failed.Config, e.Failed.Why)
	}
	if f.route.Generation > 0 && reflect.DeepEqual(r, f.route) {
		return
	}
	// Generations grow across restarts of this process too.
	r.Generation = max(f.route.Generation+1, uint64(now.UnixMicro()))
	if moved(f.route, r) {
		f.add(e, "", "TrafficMoved", "traffic is "+sharesOf(e.Active.Splits)+" of config "+strconv.Itoa(e.Active.Version))
	}
	k.Router.Publish(r)
	f.route = r
}

func (k *Keeper) withdraw(e serving.Endpoint, f *file) {
	k.Router.Withdraw(e.Tenant, e.Name)
	f.route = serving.Route{Generation: f.route.Generation}
}

// routeActive routes to what is ready of the active config.
func (k *Keeper) routeActive(ctx context.Context, e serving.Endpoint, f *file, seen []serving.Replica) []serving.RouteEntity {
	var entities []serving.RouteEntity
	for _, entity := range e.Active.Entities {
		rev := serving.Revision{Endpoint: e.ID, Digest: entity.Revision}
		recipe := k.recipes.known(ctx, entity.Revision)
		r := serving.RouteEntity{Name: entity.Name, Revision: rev, Raw: entity.Engine == "custom",
			Objective: entity.Scale.Objective, FIFO: entity.Scale.Queue == "fifo", MLflow: recipe.Env.MLflow, Limits: recipe.Limits}
		for _, s := range e.Active.Splits {
			if s.Entity == entity.Name {
				r.Percent = s.Percent
			}
		}
		r.Replicas = takers(seen, rev)
		if len(r.Replicas) == 0 {
			_, trouble := f.jobs.state(jobKey{e.Active.Version, entity.Name})
			r.Down = cmp.Or(hopeless(f.health.sinceWell(seen), rev), trouble)
			r.Coming = r.Down == ""
		} else {
			r.Coming = starting(seen, rev)
		}
		entities = append(entities, r)
	}
	return entities
}

// routeFirst routes an endpoint that has never answered: requests wait for the
// first replica while there is hope, and hear the reason when there is none.
func routeFirst(c serving.Config, down string) []serving.RouteEntity {
	var entities []serving.RouteEntity
	for _, entity := range c.Entities {
		r := serving.RouteEntity{Name: entity.Name, Raw: entity.Engine == "custom", Coming: down == "", Down: down}
		for _, s := range c.Splits {
			if s.Entity == entity.Name {
				r.Percent = s.Percent
			}
		}
		entities = append(entities, r)
	}
	return entities
}

// takers lists the replicas of rev that may take requests, by ID, with only
// what a gateway needs, so that news of no matter to it publishes nothing.
func takers(seen []serving.Replica, rev serving.Revision) []serving.Replica {
	var list []serving.Replica
	for _, r := range seen {
		if r.Revision == rev && r.State == serving.Ready {
			list = append(list, serving.Replica{ID: r.ID, Revision: r.Revision, State: r.State, Addr: r.Addr, PID: r.PID})
		}
	}
	slices.SortFunc(list, func(a, b serving.Replica) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// starting reports whether a replica of rev is on its way.
func starting(seen []serving.Replica, rev serving.Revision) bool {
	return slices.ContainsFunc(seen, func(r serving.Replica) bool {
		return r.Revision == rev && r.State == serving.Starting && !plan.Hopeless(r)
	})
}

// hopeless returns why nothing of rev will come: every replica there is says
// so. Without any replica there is hope.
func hopeless(seen []serving.Replica, rev serving.Revision) string {
	why := ""
	for _, r := range seen {
		if r.Revision != rev || r.State == serving.Draining {
			continue
		}
		if !plan.Hopeless(r) {
			return ""
		}
		why = cmp.Or(why, r.Why, "its replicas fail")
	}
	return why
}

// routed lists the revisions that a route sends traffic to.
func routed(r serving.Route) []serving.Revision {
	var revs []serving.Revision
	for _, e := range r.Entities {
		if e.Revision.Digest != "" {
			revs = append(revs, e.Revision)
		}
	}
	return revs
}

// moved says whether traffic goes elsewhere, or in other shares, than before.
func moved(old, now serving.Route) bool {
	type share struct {
		name    string
		percent int
		rev     serving.Revision
	}
	shares := func(r serving.Route) []share {
		var list []share
		for _, e := range r.Entities {
			if e.Revision.Digest != "" {
				list = append(list, share{e.Name, e.Percent, e.Revision})
			}
		}
		return list
	}
	return !slices.Equal(shares(old), shares(now)) && len(shares(now)) > 0
}
