package prepare

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"loadline.dev/loadline/serving"
)

var champion = serving.Entity{Name: "fraud-3", Model: "models:/fraud@champion", Engine: "auto"}

// phasesOf prepares e and returns what each phase ended as.
func phasesOf(t *testing.T, p *Preparer, e serving.Entity) (serving.Recipe, string, error) {
	t.Helper()
	var seen []string
	open := ""
	r, err := p.Prepare(t.Context(), e, func(ph serving.Phase) {
		if ph.State == serving.PhaseRunning {
			open = ph.Name
			return
		}
		if open != ph.Name && ph.State != serving.PhaseCached {
			t.Errorf("%s ended before it began", ph.Name)
		}
		seen = append(seen, ph.Name+" "+string(ph.State))
	})
	return r, strings.Join(seen, ", "), err
}

func TestSecondPreparationFindsAllDone(t *testing.T) {
	w, p := newWorld(t)
	first, phases, err := phasesOf(t, p, champion)
	if err != nil {
		t.Fatal(err)
	}
	if want := "resolve done, fetch done, lock done, environment done, engine done, prove done"; phases != want {
		t.Errorf("got %s, want %s", phases, want)
	}
	if first.Pinned != "models:/fraud/3" || first.Engine != "python" || string(first.Example) != `{"inputs": [1]}` || first.ExampleType != "application/json" || len(first.Phases) != 6 {
		t.Errorf("got %+v", first)
	}
	second, phases, err := phasesOf(t, p, champion)
	if err != nil {
		t.Fatal(err)
	}
	if want := "resolve done, fetch cached, lock done, environment cached, engine done, prove cached"; phases != want {
		t.Errorf("got %s, want %s", phases, want)
	}
	second.Phases, first.Phases = nil, nil
	if !reflect.DeepEqual(first, second) || w.proofs != 1 {
		t.Errorf("got %+v, want %+v; proven %d times", second, first, w.proofs)
	}
	log, err := p.BuildLog(t.Context(), first.Digest)
	if err != nil || !strings.Contains(string(log), "what the model printed") {
		t.Errorf("the log of the build is gone: %q, %v", log, err)
	}
}

func TestRevisionIsItsContent(t *testing.T) {
	base := champion
	base.Vars = map[string]string{"A": "1", "B": "2"}
	digest := func(change func(*serving.Entity, *Preparer)) string {
		_, p := newWorld(t)
		e := base
		e.Vars = maps.Clone(base.Vars)
		change(&e, p)
		r, err := p.Prepare(t.Context(), e, func(serving.Phase) {})
		if err != nil {
			t.Fatal(err)
		}
		return r.Digest
	}
	plain := digest(func(*serving.Entity, *Preparer) {})
	for name, change := range map[string]func(*serving.Entity, *Preparer){
		"another entity name": func(e *serving.Entity, _ *Preparer) { e.Name = "other" },
		"another scale":       func(e *serving.Entity, _ *Preparer) { e.Scale.Min = 7 },
		"the version itself":  func(e *serving.Entity, _ *Preparer) { e.Model = "models:/fraud/3" },
		"engine left open":    func(e *serving.Entity, _ *Preparer) { e.Engine = "" },
		"another worker":      func(_ *serving.Entity, p *Preparer) { p.Worker = "/tools/worker-2.pyz" },
	} {
		if got := digest(change); got != plain {
			t.Errorf("%s is another revision", name)
		}
	}
	for name, change := range map[string]func(*serving.Entity, *Preparer){
		"a variable":          func(e *serving.Entity, _ *Preparer) { e.Vars["A"] = "2" },
		"a variable more":     func(e *serving.Entity, _ *Preparer) { e.Vars["C"] = "" },
		"strictness":          func(e *serving.Entity, _ *Preparer) { e.Strict = true },
		"the engine":          func(e *serving.Entity, _ *Preparer) { e.Engine = "mlflow" },
		"the same, asked for": func(e *serving.Entity, _ *Preparer) { e.Engine = "python" },
		"limits":              func(_ *serving.Entity, p *Preparer) { p.Limits.Memory = 1 },
		"the bytes": func(_ *serving.Entity, p *Preparer) {
			(*world)(p.Models.(*library)).names[champion.Model] = "models:/fraud/4"
		},
	} {
		if got := digest(change); got == plain {
			t.Errorf("%s is the same revision", name)
		}
	}
}

func TestAliasIsNotServedFromMemory(t *testing.T) {
	w, p := newWorld(t)
	if _, _, err := phasesOf(t, p, champion); err != nil {
		t.Fatal(err)
	}
	w.names[champion.Model] = "models:/fraud/4"
	r, _, err := phasesOf(t, p, champion)
	if err != nil || r.Pinned != "models:/fraud/4" {
		t.Fatalf("got %s, %v", r.Pinned, err)
	}
	w.down = true
	_, phases, err := phasesOf(t, p, champion)
	if !errors.Is(err, serving.Unavailable) || !strings.Contains(err.Error(), "connection refused; when last seen") || !strings.Contains(serving.FixOf(err), "models:/fraud/4") {
		t.Errorf("got %v (%s)", err, serving.FixOf(err))
	}
	if phases != "resolve failed" {
		t.Errorf("got %s", phases)
	}
}

func TestFailedProofIsToldAndTriedAgain(t *testing.T) {
	w, p := newWorld(t)
	w.proof = &serving.Error{Kind: serving.Invalid, Err: errors.New("the model does not load: KeyError: 'x'"), Fix: "mend it"}
	r, phases, err := phasesOf(t, p, champion)
	if err == nil || err.Error() != "prove: the model does not load: KeyError: 'x'" || serving.FixOf(err) != "mend it" || !strings.HasSuffix(phases, "prove failed") {
		t.Fatalf("got %v, %s", err, phases)
	}
	if log, _ := p.EntityLog(t.Context(), champion); !strings.Contains(string(log), "KeyError") {
		t.Errorf("the entity's log is %q", log)
	}
	if log, _ := p.BuildLog(t.Context(), r.Digest); !strings.Contains(string(log), "KeyError") || !strings.Contains(string(log), "what the model printed") {
		t.Errorf("the log says %q", log)
	}
	w.proof = nil
	if _, phases, err = phasesOf(t, p, champion); err != nil || !strings.HasSuffix(phases, "prove done") {
		t.Errorf("got %s, %v", phases, err)
	}
}

func TestWhatAScanFindsIsToldBeforeAnythingRuns(t *testing.T) {
	w, p := newWorld(t)
	p.Scan = func(_ context.Context, dir string) ([]string, error) {
		if dir == "" {
			t.Error("nothing was scanned")
		}
		return []string{"model.pkl names os.system", "model.pkl names os.popen"}, nil
	}
	w.proof = errors.New("no")
	r, _, _ := phasesOf(t, p, champion)
	if log, _ := p.BuildLog(t.Context(), r.Digest); !strings.Contains(string(log), "warning: model.pkl names os.popen") {
		t.Errorf("the log says %q", log)
	}
	w.proof = nil
	r, _, err := phasesOf(t, p, champion)
	if err != nil {
		t.Fatal(err)
	}
	if note := r.Phases[len(r.Phases)-1].Note; !strings.Contains(note, "warning: model.pkl names os.system, and 1 more") {
		t.Errorf("proving notes %q", note)
	}
}

func TestRenewBringsBackWithoutAskingTheName(t *testing.T) {
	w, p := newWorld(t)
	r, _, err := phasesOf(t, p, champion)
	if err != nil {
		t.Fatal(err)
	}
	w.down, w.damaged = true, true
	fetched := w.fetches
	var names []string
	again, err := p.Renew(t.Context(), champion, r, func(ph serving.Phase) {
		if !slices.Contains(names, ph.Name) {
			names = append(names, ph.Name)
		}
	})
	if err != nil || again.Digest != r.Digest || w.fetches != fetched+1 {
		t.Fatalf("got %v, %v; %d fetches", again.Digest, err, w.fetches-fetched)
	}
	if got := fmt.Sprint(names); got != "[fetch environment engine prove]" {
		t.Errorf("phases %s", got)
	}
	if w.proofs != 1 {
		t.Errorf("proven %d times", w.proofs)
	}
	// A newer program starts its own worker, and proves it first.
	p.Worker = "/tools/worker-2.pyz"
	again, err = p.Renew(t.Context(), champion, r, func(serving.Phase) {})
	if err != nil || w.proofs != 2 || !slices.Contains(again.Launch.Argv, p.Worker) || again.Digest != r.Digest {
		t.Errorf("got %v, %v; %d proofs", again.Launch.Argv, err, w.proofs)
	}
}

func TestCustomCommandNeedsNoModel(t *testing.T) {
	w, p := newWorld(t)
	e := serving.Entity{Name: "own", Engine: "custom", Command: "serve", Health: "/health"}
	r, phases, err := phasesOf(t, p, e)
	if err != nil || phases != "engine done, prove done" || !r.Launch.Raw || w.builds != 0 || r.Example != nil {
		t.Fatalf("got %+v, %s, %v", r, phases, err)
	}
	e.Model = "models:/fraud/3"
	r, phases, err = phasesOf(t, p, e)
	if err != nil || phases != "resolve done, fetch done, engine done, prove done" || r.Launch.Vars["MODEL_DIR"] != w.dir {
		t.Errorf("got %+v, %s, %v", r, phases, err)
	}
}

func TestBuildLogIsNeverAnotherFile(t *testing.T) {
	_, p := newWorld(t)
	for _, digest := range []string{"", "../../token", strings.Repeat("a", 64)} {
		if _, err := p.BuildLog(t.Context(), digest); !errors.Is(err, serving.NotFound) {
			t.Errorf("%q: got %v", digest, err)
		}
	}
}

func TestLogIsBoundedAndTame(t *testing.T) {
	l, err := openLog(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fmt.Fprint(l, "a\x1b[2Jb\x00\u009bc\té\r\n")
	line := []byte(strings.Repeat("x", 1<<16))
	for range 2 * maxLog / len(line) {
		l.Write(line)
	}
	l.end(errors.New("the reason"))
	data, err := os.ReadFile(l.f.Name())
	if err != nil || len(data) > maxLog+1000 || !strings.HasPrefix(string(data), "a[2Jbc\té\nxx") || !strings.Contains(string(data[maxLog-100:]), "cut here") || !strings.HasSuffix(string(data), "failed: the reason\n") {
		t.Errorf("got %d bytes, %q … %q, %v", len(data), data[:20], data[len(data)-60:], err)
	}
}
