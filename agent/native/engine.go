// Package native is the agent's engine over ONNX Runtime: a model that was
// converted, and shown to answer as MLflow does, runs in the agent's own
// process, and a request for it meets no Python.
//
// Only requests about which that was shown run here: JSON bodies that fit the
// signature exactly, with values that the guards let through. Every other one
// (CSV, nulls where MLflow has words about them, bodies that are wrong) goes to
// an engine in reserve, which starts when the first such request comes and ends
// when none has come for a while. So the answers are MLflow's in all cases.
//
// A fault in native code ends the process, and the replica with it.
package native

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/internal/onnx"
	"loadline.dev/loadline/scoring"
	"loadline.dev/loadline/serving"
)

// Config is what an engine is made of.
type Config struct {
	Native serving.Native

	// Reserve makes the engine that answers what this one does not.
	Reserve func() agent.Engine

	// Idle is how long the reserve lives after its last request. Zero is [DefaultIdle].
	Idle time.Duration

	MaxBody int64 // bytes of a request body that is read here; zero is [DefaultMaxBody]
	Strict  bool  // bodies that MLflow would alter silently are the reserve's to refuse
}

// Defaults of a [Config].
const (
	DefaultIdle    = 5 * time.Minute
	DefaultMaxBody = 16 << 20
)

// An Engine is one model in this process. It implements [agent.Engine].
type Engine struct {
	config  Config
	reader  *scoring.Reader
	model   *model
	reserve *reserve

	// life is held by each request, and for good by whoever stops the engine.
	life    sync.RWMutex
	ended   chan struct{}
	stop    sync.Once
	loaded  atomic.Bool
	columns atomic.Uint64
	raw     atomic.Uint64
}

var (
	_ agent.Engine  = (*Engine)(nil)
	_ agent.Counter = (*Engine)(nil)
)

// New returns an engine that has not been started.
func New(c Config) *Engine {
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.Idle == 0 {
		c.Idle = DefaultIdle
	}
	return &Engine{config: c, ended: make(chan struct{}), reserve: &reserve{make: c.Reserve, idle: c.Idle}}
}

// library is ONNX Runtime, once it was loaded: one process has one.
var library struct {
	sync.Mutex
	path string
	*onnx.Library
}

func openLibrary(path string) (*onnx.Library, error) {
	library.Lock()
	defer library.Unlock()
	if library.Library == nil {
		l, err := onnx.Open(path)
		if err != nil {
			return nil, err
		}
		library.path, library.Library = path, l
	}
	if library.path != path {
		return nil, fmt.Errorf("this process has loaded %s already", library.path)
	}
	return library.Library, nil
}

// Start implements [agent.Engine].
func (e *Engine) Start(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- e.load() }()
	select {
	case err := <-done:
		if err != nil {
			return &serving.Error{Op: "load model", Kind: serving.Invalid, Err: err}
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) load() error {
	n := e.config.Native
	l, err := openLibrary(n.Library)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(n.Model)
	if err != nil {
		return err
	}
	session, err := l.Load(data)
	if err != nil {
		return err
	}
	e.reader = scoring.NewReader(n.Schema, n.Params, false)
	if e.model, err = newModel(session, n); err != nil {
		session.Close()
		return err
	}
	e.loaded.Store(true)
	return nil
}

// Done implements [agent.Engine].
func (e *Engine) Done() <-chan struct{} { return e.ended }

// PID is that of this very process.
func (e *Engine) PID() int {
	select {
	case <-e.ended:
		return 0
	default:
		return os.Getpid()
	}
}

// Crossed implements [agent.Counter]: how many requests were answered here, and
// how many the reserve was asked.
func (e *Engine) Crossed() (columns, raw uint64) { return e.columns.Load(), e.raw.Load() }

// Stop implements [agent.Engine]. What is being computed cannot be killed apart
// from this process; it is asked to end, and its memory is kept until it does.
func (e *Engine) Stop(grace time.Duration) {
	e.stop.Do(func() {
		alone := make(chan struct{})
		go func() {
			e.life.Lock() // for good
			close(alone)
		}()
		e.reserve.stop(grace)
		select {
		case <-alone:
		case <-time.After(grace):
			if e.loaded.Load() {
				e.model.session.Terminate()
			}
		}
		go func() {
			<-alone
			if e.loaded.Load() {
				e.model.session.Close()
			}
		}()
		close(e.ended)
	})
	<-e.ended
}
