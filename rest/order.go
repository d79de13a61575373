package rest

import (
	"fmt"
	"slices"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

// An order is what `deploy` asks for: one model, on one endpoint.
type order struct {
	entity  serving.Entity
	scale   func(*serving.Scale) // what was said of it; the rest stays as it is
	percent int                  // 0 takes everything
	named   bool                 // the user chose the entity's name
	quota   func(*serving.Quota) // what was said of the endpoint's limits
	limited bool                 // something was
}

func parseOrder(data []byte, disk local) (order, error) {
	r := newReader("", data)
	e := serving.Entity{
		Name: r.text("entity"), Engine: r.text("engine"),
		Command: r.text("command"), Health: r.text("health"),
		Strict: r.flag("strict"), Egress: r.flag("egress"), Vars: r.dictionary("env"),
	}
	model := r.text("model")
	o := order{}
	percent, said := r.number("traffic")
	if said && (percent < 1 || percent > 100) {
		r.fail("traffic is %d %%; it must be 1 to 100", percent)
	}
	o.percent = percent
	o.quota, o.limited = readQuota(r)
	sr := *r
	scale := serving.Scale{Min: 1}
	readScale(r, &scale)
	o.scale = func(s *serving.Scale) { readScale(&sr, s) }
	if err := r.strict(); err != nil {
		return o, err
	}
	if e.Engine == "" {
		e.Engine = "auto"
		if e.Command != "" {
			e.Engine = "custom"
		}
	}
	if err := placeholders(e.Vars); err != nil {
		return o, err
	}
	if model != "" || e.Command == "" {
		var err error
		if e.Model, e.Lineage, err = modelOf(r, served{model: model, key: "model", disk: disk}); err != nil {
			return o, err
		}
	}
	o.named = e.Name != ""
	if e.Name == "" && e.Model != "" {
		e.Name = DefaultName(e.Model, "")
	} else if e.Name == "" {
		e.Name = "custom"
	}
	e.Scale = scale
	o.entity = e
	return o, nil
}

func readScale(r *reader, s *serving.Scale) {
	if n, ok := r.number("min"); ok {
		s.Min = n
	}
	if n, ok := r.number("max"); ok {
		s.Max = n
	}
	if d := r.duration("idle"); d > 0 {
		s.Idle = d
	}
	if d := r.duration("objective"); d > 0 {
		s.Objective = d
	}
	if p := r.text("policy"); p != "" {
		if _, err := autopilot.Parse(p); err != nil {
			r.fail("policy %.40q is not known; known are autopilot, published:SHARE and static:N, as published:0.70 and static:4", p)
		}
		s.Policy = p
	}
	if q := r.text("queue"); q == "fifo" || q == "late-last" {
		s.Queue = q
	} else if q != "" {
		r.fail("queue is %q; it must be late-last or fifo", q)
	}
}

func (r *reader) duration(key string) time.Duration {
	raw, ok := r.take(key)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(r.text(key))
	if r.err == nil && (err != nil || d < 0) {
		r.wrong(key, `a duration like "30s"`, raw)
	}
	return d
}

// first is the config of a new endpoint.
func (o order) first() *serving.Config {
	return &serving.Config{Entities: []serving.Entity{o.entity}, Splits: []serving.Split{{Entity: o.entity.Name, Percent: 100}}}
}

// after is the config that follows what an endpoint has: the new entity alone,
// or beside those that are there with its share of the traffic.
func (o order) after(old serving.Endpoint) serving.Config {
	base := old.Active
	e := o.entity
	if before, ok := predecessor(base, e); ok {
		e.Scale = before.Scale
		o.scale(&e.Scale)
	}
	if o.percent == 0 || o.percent == 100 || len(base.Entities) == 0 {
		o.entity = e
		return *o.first()
	}
	c := serving.Config{Entities: slices.Clone(base.Entities), Splits: slices.Clone(base.Splits)}
	if !o.named {
		e.Name = free(e.Name, c)
	}
	if i := slices.IndexFunc(c.Entities, func(x serving.Entity) bool { return x.Name == e.Name }); i >= 0 {
		c.Entities[i] = e
		c.Splits = slices.DeleteFunc(c.Splits, func(s serving.Split) bool { return s.Entity == e.Name })
	} else {
		c.Entities = append(c.Entities, e)
	}
	c.Splits = append(shrink(c.Splits, 100-o.percent), serving.Split{Entity: e.Name, Percent: o.percent})
	return c
}

// free is a name that no entity of c has: a newcomer beside others must not take
// the place of one only because its model is called the same.
func free(name string, c serving.Config) string {
	tried := name
	for n := 2; ; n++ {
		if _, taken := c.Entity(tried); !taken {
			return tried
		}
		tried = fmt.Sprintf("%.58s-%d", name, n)
	}
}

// predecessor is the entity whose place a new one takes.
func predecessor(c serving.Config, e serving.Entity) (serving.Entity, bool) {
	if same, ok := c.Entity(e.Name); ok {
		return same, true
	}
	for _, old := range c.Entities {
		if e.Lineage != "" && old.Lineage == e.Lineage {
			return old, true
		}
	}
	if len(c.Entities) == 1 {
		return c.Entities[0], true
	}
	return serving.Entity{}, false
}

// shrink gives splits total percent in all, in the proportions they have. What
// rounding leaves goes to the largest.
func shrink(splits []serving.Split, total int) []serving.Split {
	sum, given, largest := 0, 0, 0
	for _, s := range splits {
		sum += s.Percent
	}
	if sum == 0 {
		if len(splits) > 0 {
			splits[0].Percent = total
		}
		return splits
	}
	for i, s := range splits {
		splits[i].Percent = s.Percent * total / sum
		given += splits[i].Percent
		if s.Percent > splits[largest].Percent {
			largest = i
		}
	}
	splits[largest].Percent += total - given
	return splits
}
