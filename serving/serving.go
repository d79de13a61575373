// Package serving holds the words the whole system speaks: endpoint, entity,
// split, revision, recipe, replica, phase. It knows what these things are and
// which of them are valid. It does not know where they run, how they are
// stored, or who is asking, and it imports only the standard library.
//
// All its types are plain values. Shells that keep or send them encode them
// with encoding/json under their Go field names; wire forms that outsiders see
// belong to the rooms that speak them.
package serving

import "time"

// An Endpoint is a name that clients call, and the wish behind it.
type Endpoint struct {
	Tenant string // the namespace; "default" on one machine
	Name   string // unique within the tenant; see [CheckName]
	ID     string // 32 hex digits, given at creation, never reused

	Creator     string
	Description string
	Created     time.Time
	Updated     time.Time // last accepted change of anything a user wrote
	Tags        []Tag     // sorted by key
	Quota       Quota

	// Active is the config that answers. Its Version is 0 until the first
	// config has become ready.
	Active Config

	// Pending is the config being made ready; nil when nothing is under way.
	Pending *Config

	// Failed is the last config that could not be made ready; nil once a later
	// one was accepted.
	Failed *Failure

	// History holds the configs that were active before, oldest first, at most
	// [MaxHistory] of them. A roll-back copies one of these.
	History []Config

	// Deleting says that the endpoint answers no more and goes once its
	// replicas are gone.
	Deleting bool

	// Wire is what the API must echo of the endpoint itself. Only rest reads it.
	Wire []byte

	// Version counts the writes of this record, from 1. A store's Update is
	// refused with [Conflict] when it is not the version last read.
	Version int64
}

// MaxHistory bounds [Endpoint.History].
const MaxHistory = 50

// NextConfigVersion is the version that the next accepted config gets.
func (e Endpoint) NextConfigVersion() int {
	n := e.Active.Version
	for _, c := range e.History {
		n = max(n, c.Version)
	}
	if e.Pending != nil {
		n = max(n, e.Pending.Version)
	}
	if e.Failed != nil {
		n = max(n, e.Failed.Config.Version)
	}
	return n + 1
}

// A Tag is a user's label on an endpoint.
type Tag struct{ Key, Value string }

// A Config is what an endpoint should run and how traffic is split. It counts
// what the user wrote; what runs is named by [Revision].
type Config struct {
	Version  int // from 1; unique within the endpoint
	Entities []Entity
	Splits   []Split // percentages add up to 100
	Created  time.Time
	Wire     []byte // what the API must echo; only rest reads it
}

// Entity returns the entity of that name, and whether there is one.
func (c Config) Entity(name string) (Entity, bool) {
	for _, e := range c.Entities {
		if e.Name == name {
			return e, true
		}
	}
	return Entity{}, false
}

// A Split sends a share of an endpoint's traffic to one entity.
type Split struct {
	Entity  string
	Percent int // 0 … 100
}

// A Failure is a config that could not be made ready, and why.
type Failure struct {
	Config Config
	At     time.Time
	Entity string // which entity stopped it; may be empty
	Why    string // the decisive line
	Fix    string // what to do about it; may be empty
}

// An Entity is one served model: what traffic is split to, waited for, scaled.
type Entity struct {
	Name string // unique within the config

	// Model is the MODEL as the user wrote it ("models:/fraud@champion", a
	// folder, …); empty only with Engine custom.
	Model string

	// Lineage is what an entity of a later config must share with this one to
	// be its successor when their names differ: the model's name without version.
	Lineage string

	Engine  string // "auto", "python", "native", "mlflow", "custom"
	Command string // Engine custom: a shell command that listens on $PORT
	Health  string // Engine custom: path that answers 2xx when ready, e.g. "/health"

	// Reads are what Command names of this machine's disk, where its author may
	// show that to a model: the owner, on the same machine. Absolute paths.
	Reads []string

	// Strict refuses with 400 whatever MLflow would alter silently.
	Strict bool

	// Egress lets the engine's process open connections. Without it a model
	// reaches nobody.
	Egress bool

	// Vars are environment variables of the engine's process.
	Vars map[string]string

	Scale Scale

	// Revision is the digest that preparation gave this entity; empty until
	// then. Control writes it, so that an alias that moves later changes nothing
	// that was promised: a restart and a roll-back run what ran.
	Revision string
}

// Scale is how many replicas an entity wishes.
type Scale struct {
	Min int // replicas that always run. Zero means scale to zero is allowed.
	Max int // zero is no bound

	// Idle and Objective are the user's hints for the autopilot; zero is none.
	Idle      time.Duration
	Objective time.Duration
	Policy    string // "" is the autopilot's own

	// Queue is the order in which requests wait: "" and "late-last" let those
	// that are late already wait until nobody on time is waiting, "fifo" is the
	// order of arrival.
	Queue string
}

// A Revision names what runs: the content of an entity within an endpoint.
// Configs with equal content share a revision, hence its replicas.
type Revision struct {
	Endpoint string // the endpoint's ID
	Digest   string // hex; of model bytes, environment lock, engine asked for, variables, limits
}

// A Recipe is what preparation found out about a revision: all that a replica
// needs to start, and the evidence.
type Recipe struct {
	Digest string // the revision's

	Asked  string // MODEL as the user wrote it
	Pinned string // the immutable name it resolved to: "models:/fraud/3", a folder's digest
	Model  Files  // where the model's bytes lie

	Env    Environment
	Engine string // what was chosen
	Why    string // one sentence: why this engine

	// Evidence is how the native engine compared, one sentence for each of its
	// candidates; empty when none was tried.
	Evidence []string `json:",omitempty"`

	Launch Launch

	// Example is a ready request body that the model must answer before a
	// replica is ready; empty when the model has none of its own.
	Example     []byte
	ExampleType string // its Content-Type

	Strict  bool
	Egress  bool
	Limits  Limits
	Phases  []Phase // how the preparation went
	Created time.Time
}

// Files is a folder of bytes named by their content.
type Files struct {
	Dir    string // absolute; empty when there is no model
	Digest string // hex sha256 over the sorted manifest
}

// An Environment is a Python environment named by its lock. The zero value
// means that none is needed.
type Environment struct {
	Dir    string // absolute path of the environment; its python is Dir/bin/python
	Digest string
	Python string // minor version: "3.11"
	MLflow string // version installed there: "3.17.2"
}

// A Protocol is how an agent talks to its engine process.
type Protocol string

const (
	Worker Protocol = "worker" // our frames on an inherited Unix socket
	HTTP   Protocol = "http"   // HTTP/1.1 on a loopback port
	Onnx   Protocol = "onnx"   // ONNX Runtime in the agent's own process, a Worker in reserve
)

// Launch says how to start an engine process.
type Launch struct {
	Protocol Protocol

	// Argv is the command, absolute program first. "{port}" and "{dir}" are
	// replaced by the agent: a free loopback port, the replica's own folder.
	Argv []string

	// Vars is the whole environment of the process ("K" → "V"); the agent adds
	// PORT for [HTTP] and HOME, TMPDIR in the replica's folder.
	Vars map[string]string

	// Native is what [Onnx] runs; nil otherwise. Argv is then the worker's, which
	// starts when the first request comes that is not for Native.
	Native *Native `json:",omitempty"`

	// Health is the path that answers 2xx once loaded; [HTTP] only.
	Health string

	// Reads are files and folders that the process may read beside its model
	// and its environment.
	Reads []string

	// Raw says that requests of any method and path pass to the engine
	// untouched (engine custom). Otherwise only scoring routes do.
	Raw bool
}

// Limits bound one replica. Zero means the platform's default.
type Limits struct {
	Concurrency int           // the load line: requests inside the engine at once
	Request     time.Duration // longest execution of one request
	Start       time.Duration // longest time from start to ready
	Body        int64         // bytes of a request body, decompressed
	Memory      int64         // bytes
	Processes   int
}

// An Assignment is what an agent is told: which replica it is, and the recipe.
// It is written to spec.json in the replica's folder.
type Assignment struct {
	Replica  string // the replica's ID
	Endpoint string // the endpoint's name, for logs and headers
	Entity   string
	Revision Revision
	Recipe   Recipe
	Sandbox  bool // false runs the engine without isolation
}

// A State is where a replica is in its life.
type State string

const (
	Starting State = "starting" // process there, model not yet proven
	Ready    State = "ready"    // answered its own example once
	Draining State = "draining" // takes nothing new
	Backoff  State = "backoff"  // its engine died; it will be started again
	Failed   State = "failed"   // gave up; Why says the reason
)

// A Replica is one running copy of a revision, as last seen. The agent writes
// it to state.json in its folder at each change.
type Replica struct {
	ID       string
	Revision Revision
	State    State
	Addr     string // the agent's link address: the absolute path of a Unix socket, or HOST:PORT where it speaks TLS
	PID      int    // of the agent
	Engine   int    // process ID of the engine; 0 while there is none
	Started  time.Time
	Since    time.Time // when State last changed
	Restarts int       // of the engine within this replica
	Why      string    // the decisive line, when not well
}

// A Phase is one step of preparation or start: "resolve", "fetch", "lock",
// "environment", "engine", "prove", "load", "ready".
type Phase struct {
	Name    string
	State   PhaseState
	Started time.Time
	Took    time.Duration // so far, when running
	Note    string        // what it found, for a reader: "28 files, 3.1 MB, cached"
	Done    int64         // progress within the phase, in bytes or items
	Total   int64         // zero when unknown
}

// A PhaseState says how far a phase is.
type PhaseState string

const (
	PhaseRunning PhaseState = "running"
	PhaseDone    PhaseState = "done"
	PhaseCached  PhaseState = "cached" // done before; nothing had to be done
	PhaseFailed  PhaseState = "failed"
)

// A Status is what is seen of an endpoint, beside its wish.
type Status struct {
	Ready    bool // every entity of the active config is ready
	Updating bool // a pending config is being made ready
	Entities []EntityStatus
}

// A Deployment is the state of one entity.
type Deployment string

const (
	Creating   Deployment = "creating"
	Recovering Deployment = "recovering"
	Deployed   Deployment = "ready"
	Broken     Deployment = "failed"
	Aborted    Deployment = "aborted"
)

// An EntityStatus is what is seen of one entity of one config.
type EntityStatus struct {
	Config   int // the config's version
	Pending  bool
	Entity   Entity
	State    Deployment
	Message  string // what is happening, or the decisive line of what went wrong
	Revision Revision
	Recipe   Recipe // zero until prepared
	Phases   []Phase
	Want     int // replicas wanted
	Replicas []Replica
}

// An Event is something that happened to an endpoint, for people.
type Event struct {
	At       time.Time
	Endpoint string // name
	Entity   string // may be empty
	Kind     string // CamelCase and few: "Created", "Prepared", "ReplicaReady", "ReplicaDied", "TrafficMoved", "UpdateFailed", …
	Text     string
}

// A Route is what a gateway needs to know about one endpoint.
type Route struct {
	Tenant, Endpoint, ID string

	// Generation grows with every change of the route, so that gateways can say
	// which one they serve.
	Generation uint64

	Entities []RouteEntity // of the active config

	Quota Quota
}

// A RouteEntity is one entity as traffic sees it.
type RouteEntity struct {
	Name     string
	Percent  int
	Revision Revision
	Raw      bool // engine custom: any method and path
	Limits   Limits

	// Objective is the wait beyond which a request is late, and lets those on
	// time go first. Zero is the gateway's default.
	Objective time.Duration

	// FIFO lets requests wait in order of arrival, whoever is late.
	FIFO bool

	MLflow string // version in the entity's environment; empty when it has none

	// Replicas are the ones that may take requests. Empty means that requests
	// wait for one.
	Replicas []Replica

	// Coming says that a replica is on its way, beside those there are or as the
	// first one, so those who wait have hope.
	Coming bool

	// Down says why nothing will come; requests are then refused at once. Empty otherwise.
	Down string
}
