package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"loadline.dev/loadline/serving"
)

// A shelf keeps recipes by digest, in a drawer and in memory.
type shelf struct {
	drawer Drawer

	mu      sync.Mutex
	vouched map[string]serving.Recipe // what this process knows to be there
	heard   map[string]serving.Recipe // what an earlier process said
}

// cached returns a recipe that this process has vouched for: replicas may start
// from it.
func (s *shelf) cached(digest string) (serving.Recipe, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.vouched[digest]
	return r, ok
}

// known returns a recipe, vouched for or not; zero when there is none.
func (s *shelf) known(ctx context.Context, digest string) serving.Recipe {
	if r, ok := s.cached(digest); ok {
		return r
	}
	s.mu.Lock()
	r, ok := s.heard[digest]
	s.mu.Unlock()
	if ok {
		return r
	}
	r, err := s.read(ctx, digest)
	if err != nil {
		return serving.Recipe{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == nil {
		s.heard = map[string]serving.Recipe{}
	}
	s.heard[digest] = r
	return r
}

func (s *shelf) keep(ctx context.Context, r serving.Recipe) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := s.drawer.Put(ctx, recipeKey(r.Digest), text); err != nil {
		return fmt.Errorf("keep recipe: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vouched == nil {
		s.vouched = map[string]serving.Recipe{}
	}
	s.vouched[r.Digest] = r
	delete(s.heard, r.Digest)
	return nil
}

func (s *shelf) read(ctx context.Context, digest string) (serving.Recipe, error) {
	var r serving.Recipe
	text, err := s.drawer.Get(ctx, recipeKey(digest))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, &serving.Error{Op: "read recipe", Subject: shortDigest(digest), Kind: serving.NotFound, Err: err}
	}
	return r, nil
}

// sweep forgets the recipes of an endpoint that is gone, but for those that
// another endpoint runs too.
func (s *shelf) sweep(ctx context.Context, store Store, gone serving.Endpoint) error {
	others, err := store.List(ctx, "")
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, e := range others {
		for _, d := range digests(e) {
			used[d] = true
		}
	}
	var failed error
	for _, d := range digests(gone) {
		if used[d] {
			continue
		}
		s.mu.Lock()
		delete(s.vouched, d)
		delete(s.heard, d)
		s.mu.Unlock()
		failed = errors.Join(failed, s.drawer.Delete(ctx, recipeKey(d)))
	}
	return failed
}

// digests lists the revisions that a record names, those of its history included.
func digests(e serving.Endpoint) []string {
	configs := append([]serving.Config{e.Active}, e.History...)
	if e.Pending != nil {
		configs = append(configs, *e.Pending)
	}
	if e.Failed != nil {
		configs = append(configs, e.Failed.Config)
	}
	var all []string
	for _, c := range configs {
		for _, entity := range c.Entities {
			if entity.Revision != "" {
				all = append(all, entity.Revision)
			}
		}
	}
	return all
}

func recipeKey(digest string) string { return "recipe/" + digest }
