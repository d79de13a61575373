package control

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"loadline.dev/loadline/serving"
)

// maxEvents bounds what is kept of one endpoint.
const maxEvents = 200

// A journal keeps the last events of each endpoint, in memory and in a drawer.
// When the drawer cannot be written, events stay in memory and are written with
// the next.
type journal struct {
	drawer Drawer

	mu    sync.Mutex
	pages map[string]*page // by endpoint id
}

type page struct {
	mu     sync.Mutex
	read   bool // what the drawer had was read
	events []serving.Event
}

func (j *journal) page(id string) *page {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pages == nil {
		j.pages = map[string]*page{}
	}
	p := j.pages[id]
	if p == nil {
		p = &page{}
		j.pages[id] = p
	}
	return p
}

// add appends events and writes the page.
func (j *journal) add(ctx context.Context, id string, events ...serving.Event) error {
	p := j.page(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	err := j.readLocked(ctx, id, p)
	p.events = append(p.events, events...)
	p.events = slices.Clone(p.events[max(0, len(p.events)-maxEvents):])
	if err != nil {
		return err
	}
	text, err := json.Marshal(p.events)
	if err != nil {
		return err
	}
	return j.drawer.Put(ctx, eventKey(id), text)
}

func (j *journal) list(ctx context.Context, id string) ([]serving.Event, error) {
	p := j.page(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	err := j.readLocked(ctx, id, p)
	return slices.Clone(p.events), err
}

// readLocked requires p.mu. It puts what an earlier process wrote before what
// this one saw.
func (j *journal) readLocked(ctx context.Context, id string, p *page) error {
	if p.read {
		return nil
	}
	text, err := j.drawer.Get(ctx, eventKey(id))
	if err != nil && !errors.Is(err, serving.NotFound) {
		return err
	}
	var earlier []serving.Event
	if err == nil {
		if err := json.Unmarshal(text, &earlier); err != nil {
			earlier = nil // a story that cannot be read is not worth a failure
		}
	}
	p.events = append(earlier, p.events...)
	p.read = true
	return nil
}

// forget drops an endpoint's events.
func (j *journal) forget(ctx context.Context, id string) error {
	j.mu.Lock()
	delete(j.pages, id)
	j.mu.Unlock()
	return j.drawer.Delete(ctx, eventKey(id))
}

func eventKey(id string) string { return "events/" + id }
