package rest

import (
	"time"

	"loadline.dev/loadline/serving"
)

// A View is an endpoint as our own API tells of it. Its form is stable.
type View struct {
	Name        string            `json:"name"`
	ID          string            `json:"id"`
	State       string            `json:"state"` // starting, ready, degraded, updating, failed
	Ready       bool              `json:"ready"`
	Updating    bool              `json:"updating"`
	Version     int               `json:"config_version"`           // of the config that answers; 0 while there is none
	Pending     int               `json:"pending_config,omitempty"` // of the config being made ready
	Creator     string            `json:"creator"`
	Created     time.Time         `json:"created"`
	Updated     time.Time         `json:"updated"`
	Description string            `json:"description,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Traffic     []SplitView       `json:"traffic"`
	Rates       []RateView        `json:"rate_limits,omitempty"`
	InFlight    int               `json:"max_in_flight,omitempty"` // requests at once; 0 is no bound
	Entities    []EntityView      `json:"entities"`
	Failed      *FailureView      `json:"failed,omitempty"`
	History     []ConfigView      `json:"history"`
}

// A SplitView is one entity's share of the traffic.
type SplitView struct {
	Entity  string `json:"entity"`
	Percent int    `json:"percent"`
}

// An EntityView is one entity of one config.
type EntityView struct {
	Name     string            `json:"name"`
	Version  int               `json:"config_version"`
	Pending  bool              `json:"pending"`
	State    string            `json:"state"` // creating, recovering, ready, failed, aborted
	Message  string            `json:"message,omitempty"`
	Model    string            `json:"model,omitempty"`
	Pinned   string            `json:"pinned,omitempty"`
	Engine   string            `json:"engine"` // what was chosen, or asked for until then
	Why      string            `json:"why,omitempty"`
	Command  string            `json:"command,omitempty"`
	Strict   bool              `json:"strict"`
	Egress   bool              `json:"egress"`
	Env      map[string]string `json:"env,omitempty"`
	Runtime  *RuntimeView      `json:"environment,omitempty"`
	Scale    ScaleView         `json:"scale"`
	Revision string            `json:"revision,omitempty"`
	Want     int               `json:"want"`
	Ready    int               `json:"ready"`
	Replicas []ReplicaView     `json:"replicas"`
	Phases   []PhaseView       `json:"phases"`
}

// A RuntimeView is the Python environment of an entity.
type RuntimeView struct {
	Digest string `json:"digest"`
	Python string `json:"python"`
	MLflow string `json:"mlflow"`
}

// A ScaleView is what was wished of the autopilot. Without max, the machine's
// processors are the most; the other members are absent when the autopilot is to find
// them by itself.
type ScaleView struct {
	Min       int    `json:"min"`
	Max       int    `json:"max,omitempty"`
	Idle      string `json:"idle,omitempty"`
	Objective string `json:"objective,omitempty"`
	Policy    string `json:"policy,omitempty"`
	Queue     string `json:"queue,omitempty"`
}

// A ReplicaView is one running copy.
type ReplicaView struct {
	ID       string    `json:"id"`
	State    string    `json:"state"`
	PID      int       `json:"pid"`
	Engine   int       `json:"engine_pid,omitempty"`
	Started  time.Time `json:"started"`
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts"`
	Why      string    `json:"why,omitempty"`
}

// A PhaseView is one step of preparation or start.
type PhaseView struct {
	Name    string    `json:"name"`
	State   string    `json:"state"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Note    string    `json:"note,omitempty"`
	Done    int64     `json:"done,omitempty"`
	Total   int64     `json:"total,omitempty"`
}

// A FailureView is a config that could not be made ready.
type FailureView struct {
	Version int       `json:"config_version"`
	At      time.Time `json:"at"`
	Entity  string    `json:"entity,omitempty"`
	Why     string    `json:"why"`
	Fix     string    `json:"fix,omitempty"`
}

// A ConfigView is a config that was active before.
type ConfigView struct {
	Version int       `json:"config_version"`
	Created time.Time `json:"created"`
	Models  []string  `json:"models"`
}

// An EventView is something that happened.
type EventView struct {
	At     time.Time `json:"at"`
	Entity string    `json:"entity,omitempty"`
	Kind   string    `json:"kind"`
	Text   string    `json:"text"`
}

func view(e serving.Endpoint, st serving.Status) View {
	v := View{
		Name: e.Name, ID: e.ID, State: stateWord(e, st), Ready: e.Active.Version > 0 && st.Ready,
		Updating: e.Pending != nil, Version: e.Active.Version, Creator: e.Creator,
		Created: e.Created, Updated: e.Updated, Description: e.Description,
		Traffic: []SplitView{}, Entities: []EntityView{}, History: []ConfigView{},
	}
	if e.Pending != nil {
		v.Pending = e.Pending.Version
	}
	if len(e.Quota.Rates) > 0 {
		v.Rates = rateViews(e.Quota.Rates)
	}
	v.InFlight = e.Quota.InFlight
	for _, t := range e.Tags {
		if v.Tags == nil {
			v.Tags = map[string]string{}
		}
		v.Tags[t.Key] = t.Value
	}
	shown := e.Active
	if shown.Version == 0 {
		shown = newest(e)
	}
	for _, s := range shown.Splits {
		v.Traffic = append(v.Traffic, SplitView{s.Entity, s.Percent})
	}
	for _, s := range st.Entities {
		v.Entities = append(v.Entities, entityView(s))
	}
	if f := e.Failed; f != nil {
		v.Failed = &FailureView{f.Config.Version, f.At, f.Entity, f.Why, f.Fix}
	}
	for _, c := range e.History {
		v.History = append(v.History, ConfigView{c.Version, c.Created, models(c)})
	}
	return v
}

func stateWord(e serving.Endpoint, st serving.Status) string {
	switch {
	case e.Active.Version == 0 && e.Pending != nil:
		return "starting"
	case e.Active.Version == 0:
		return "failed"
	case e.Pending != nil:
		return "updating"
	case st.Ready:
		return "ready"
	}
	return "degraded"
}

// newest is the config a reader most likely asks about.
func newest(e serving.Endpoint) serving.Config {
	switch {
	case e.Pending != nil:
		return *e.Pending
	case e.Failed != nil:
		return e.Failed.Config
	}
	return e.Active
}

func entityView(s serving.EntityStatus) EntityView {
	e := s.Entity
	v := EntityView{
		Name: e.Name, Version: s.Config, Pending: s.Pending, State: string(s.State), Message: s.Message,
		Model: e.Model, Pinned: s.Recipe.Pinned, Engine: e.Engine, Why: s.Recipe.Why, Command: e.Command,
		Strict: e.Strict, Egress: e.Egress, Env: e.Vars, Scale: scaleView(e.Scale), Revision: s.Revision.Digest, Want: s.Want,
		Replicas: []ReplicaView{}, Phases: []PhaseView{},
	}
	if s.Recipe.Engine != "" {
		v.Engine = s.Recipe.Engine
	}
	if env := s.Recipe.Env; env.Digest != "" {
		v.Runtime = &RuntimeView{env.Digest, env.Python, env.MLflow}
	}
	for _, r := range s.Replicas {
		if r.State == serving.Ready {
			v.Ready++
		}
		v.Replicas = append(v.Replicas, ReplicaView{r.ID, string(r.State), r.PID, r.Engine, r.Started, r.Since, r.Restarts, r.Why})
	}
	for _, p := range s.Phases {
		v.Phases = append(v.Phases, PhaseView{p.Name, string(p.State), p.Started, p.Took.Seconds(), p.Note, p.Done, p.Total})
	}
	return v
}

func scaleView(s serving.Scale) ScaleView {
	v := ScaleView{Min: s.Min, Max: s.Max, Policy: s.Policy, Queue: s.Queue}
	if s.Idle > 0 {
		v.Idle = s.Idle.String()
	}
	if s.Objective > 0 {
		v.Objective = s.Objective.String()
	}
	return v
}

func models(c serving.Config) []string {
	list := []string{}
	for _, e := range c.Entities {
		name := e.Model
		if name == "" {
			name = e.Command
		}
		list = append(list, name)
	}
	return list
}

func entityNames(c serving.Config) []string {
	var names []string
	for _, e := range c.Entities {
		names = append(names, e.Name)
	}
	return names
}
