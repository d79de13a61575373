package fake

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

// A Store keeps endpoints in memory. The zero value is ready for use.
type Store struct {
	mu      sync.Mutex
	records map[control.Key][]byte // by tenant and lower-case name; encoded, so that nothing is shared
	writes  control.Listeners[control.Key]
}

var _ control.Store = (*Store)(nil)

// Create implements [control.Store].
func (s *Store) Create(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return serving.Endpoint{}, err
	}
	if _, taken := s.records[fold(e.Tenant, e.Name)]; taken {
		return serving.Endpoint{}, trouble("create", e.Name, serving.Exists, nil)
	}
	e.Version = 1
	return s.putLocked(e)
}

// Update implements [control.Store].
func (s *Store) Update(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return serving.Endpoint{}, err
	}
	if err := s.expectLocked(e.Tenant, e.Name, e.Version); err != nil {
		return serving.Endpoint{}, err
	}
	e.Version++
	return s.putLocked(e)
}

// Delete implements [control.Store].
func (s *Store) Delete(ctx context.Context, tenant, name string, version int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.expectLocked(tenant, name, version); err != nil {
		return err
	}
	delete(s.records, fold(tenant, name))
	s.writes.Tell(control.Key{Tenant: tenant, Name: name})
	return nil
}

// Get implements [control.Store].
func (s *Store) Get(_ context.Context, tenant, name string) (serving.Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.getLocked(tenant, name)
}

// List implements [control.Store].
func (s *Store) List(_ context.Context, tenant string) ([]serving.Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []serving.Endpoint
	for _, text := range s.records {
		e, err := decode(text)
		if err != nil {
			return nil, err
		}
		if tenant == "" || e.Tenant == tenant {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b serving.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
	})
	return list, nil
}

// Watch implements [control.Store].
func (s *Store) Watch(ctx context.Context) <-chan control.Key { return s.writes.Listen(ctx) }

// putLocked requires s.mu.
func (s *Store) putLocked(e serving.Endpoint) (serving.Endpoint, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return serving.Endpoint{}, err
	}
	if s.records == nil {
		s.records = map[control.Key][]byte{}
	}
	s.records[fold(e.Tenant, e.Name)] = text
	s.writes.Tell(control.Key{Tenant: e.Tenant, Name: e.Name})
	return decode(text)
}

// getLocked requires s.mu.
func (s *Store) getLocked(tenant, name string) (serving.Endpoint, error) {
	text, ok := s.records[fold(tenant, name)]
	if !ok {
		return serving.Endpoint{}, trouble("endpoint", name, serving.NotFound, nil)
	}
	e, err := decode(text)
	if err == nil && e.Name != name {
		return serving.Endpoint{}, trouble("endpoint", name, serving.NotFound, nil)
	}
	return e, err
}

// expectLocked requires s.mu.
func (s *Store) expectLocked(tenant, name string, version int64) error {
	e, err := s.getLocked(tenant, name)
	if err == nil && e.Version != version {
		err = trouble("write", name, serving.Conflict, fmt.Errorf("version %d was read, %d is there", version, e.Version))
	}
	return err
}

func fold(tenant, name string) control.Key {
	return control.Key{Tenant: tenant, Name: strings.ToLower(name)}
}

func decode(text []byte) (e serving.Endpoint, err error) {
	err = json.Unmarshal(text, &e)
	return e, err
}

func trouble(op, subject string, kind serving.Kind, err error) error {
	return &serving.Error{Op: op, Subject: subject, Kind: kind, Err: err}
}

// A Drawer keeps values in memory. The zero value is ready for use.
type Drawer struct {
	mu     sync.Mutex
	values map[string][]byte
}

var _ control.Drawer = (*Drawer)(nil)

// Get implements [control.Drawer].
func (d *Drawer) Get(_ context.Context, key string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.values[key]
	if !ok {
		return nil, trouble("get", key, serving.NotFound, nil)
	}
	return slices.Clone(v), nil
}

// Put implements [control.Drawer].
func (d *Drawer) Put(ctx context.Context, key string, value []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.values == nil {
		d.values = map[string][]byte{}
	}
	d.values[key] = slices.Clone(value)
	return nil
}

// Delete implements [control.Drawer].
func (d *Drawer) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.values, key)
	return nil
}

// Keys implements [control.Drawer].
func (d *Drawer) Keys(_ context.Context, prefix string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(d.values)) {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}
