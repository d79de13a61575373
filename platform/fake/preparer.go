package fake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

// A Preparer makes recipes out of nothing. The zero value is ready for use.
type Preparer struct {
	Delay time.Duration // of each preparation

	mu     sync.Mutex
	names  map[string]string // model → what it resolves to now
	broken map[string]error  // model → why it cannot be prepared
	calls  int
	renews int
}

var (
	_ control.Preparer = (*Preparer)(nil)
	_ control.Renewer  = (*Preparer)(nil)
)

// Prepare implements [control.Preparer]. The digest depends on the content of
// the entity: what its model's name resolves to, engine, command, variables.
func (p *Preparer) Prepare(ctx context.Context, e serving.Entity, report func(serving.Phase)) (serving.Recipe, error) {
	began := time.Now()
	phase := serving.Phase{Name: "resolve", State: serving.PhaseRunning, Started: began}
	report(phase)
	p.mu.Lock()
	p.calls++
	pinned, moved := p.names[e.Model]
	if !moved {
		pinned = e.Model
	}
	err := p.broken[e.Model]
	p.mu.Unlock()
	if p.Delay > 0 {
		select {
		case <-ctx.Done():
			return serving.Recipe{}, ctx.Err()
		case <-time.After(p.Delay):
		}
	}
	phase.Took = time.Since(began)
	if err != nil {
		phase.State, phase.Note = serving.PhaseFailed, err.Error()
		report(phase)
		return serving.Recipe{}, err
	}
	phase.State, phase.Note = serving.PhaseDone, pinned
	report(phase)
	content, err := json.Marshal([]any{pinned, e.Engine, e.Command, e.Vars})
	if err != nil {
		return serving.Recipe{}, err
	}
	sum := sha256.Sum256(content)
	return serving.Recipe{Digest: hex.EncodeToString(sum[:]), Asked: e.Model, Pinned: pinned, Engine: e.Engine,
		Why: "everything runs here", Phases: []serving.Phase{phase}, Created: began,
		Launch: serving.Launch{Protocol: serving.HTTP, Argv: []string{"/bin/true"}}}, nil
}

// Renew implements [control.Renewer]. It takes as long as a preparation, and
// fails when the model is broken.
func (p *Preparer) Renew(ctx context.Context, e serving.Entity, old serving.Recipe, report func(serving.Phase)) (serving.Recipe, error) {
	for _, phase := range old.Phases {
		phase.State = serving.PhaseCached
		report(phase)
	}
	p.mu.Lock()
	p.renews++
	err := p.broken[e.Model]
	p.mu.Unlock()
	if p.Delay > 0 {
		select {
		case <-ctx.Done():
			return serving.Recipe{}, ctx.Err()
		case <-time.After(p.Delay):
		}
	}
	return old, err
}

// Renews counts the renewals begun.
func (p *Preparer) Renews() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.renews
}

// Resolve makes a model's name resolve to something from now on, as an alias
// that is moved would.
func (p *Preparer) Resolve(model, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.names == nil {
		p.names = map[string]string{}
	}
	p.names[model] = to
}

// Break makes the preparation of a model fail; nil mends it.
func (p *Preparer) Break(model string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken == nil {
		p.broken = map[string]error{}
	}
	p.broken[model] = err
}

// Calls counts the preparations begun.
func (p *Preparer) Calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}
