package main

import (
	"path/filepath"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// Two of the demo's models live through its fourth and fifth step: replaced,
// rolled back and killed under load without an answer lost that was not inside
// the killed replica, then adopted by a server that was killed itself.
func TestNothingIsLostWhenThingsChange(t *testing.T) {
	python := harness.Needed(t, "LOADLINE_TEST_PYTHON")
	bin, err := harness.Binary(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &story{Bin: bin, Python: python, Root: root, Dir: t.TempDir(), Out: t.Output(), began: time.Now()}
	t.Cleanup(func() {
		s.server.Stop()
		s.tracking.Stop()
		if left := s.strays(); len(left) > 0 {
			t.Errorf("left running: %v", left)
		}
	})
	ctx := t.Context()
	if err := s.prepare(ctx, "price", "fraud"); err != nil {
		t.Fatal(err)
	}
	if err := s.deploy(ctx); err != nil {
		t.Fatal(err)
	}
	fraud := s.models[1]
	if err := s.change(ctx, fraud); err != nil {
		t.Fatal(err)
	}
	if err := s.restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.finish(ctx); err != nil {
		t.Fatal(err)
	}
}
