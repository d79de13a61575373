package prepare

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"loadline.dev/loadline/serving"
)

func TestVariablesThatAreNotSetAreToldBeforeItFails(t *testing.T) {
	w, p := newWorld(t)
	text := "# This file records environment variable names that are used during model inference.\nAPI_KEY\nSET\nnot a name\nREGION\nAPI_KEY\n"
	if err := os.WriteFile(filepath.Join(w.dir, variablesFile), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	e := champion
	e.Vars = map[string]string{"SET": "1"}
	r, _, err := phasesOf(t, p, e)
	if err != nil {
		t.Fatal(err)
	}
	const told = "not set of the variables it was logged with: API_KEY, REGION"
	if note := r.Phases[len(r.Phases)-1].Note; !strings.HasSuffix(note, told) {
		t.Errorf("proving notes %q", note)
	}
	if log, _ := p.BuildLog(t.Context(), r.Digest); !strings.Contains(string(log), "warning: "+told) {
		t.Errorf("the log says %q", log)
	}
}

func TestFailureForWantOfAVariableSaysHowToSetIt(t *testing.T) {
	for why, fix := range map[string]string{
		"the model does not load: KeyError: 'API_KEY'":     "deploy again with --env API_KEY=… (environment_vars in the API)",
		"the model does not load: KeyError: 'NOT_API_KEY'": "mend it",
	} {
		err := forWantOf([]string{"REGION", "API_KEY"}, &serving.Error{Kind: serving.Invalid, Err: errors.New(why), Fix: "mend it"})
		if !errors.Is(err, serving.Invalid) || !strings.HasPrefix(err.Error(), why) || !strings.HasSuffix(err.Error(), "REGION, API_KEY") || serving.FixOf(err) != fix {
			t.Errorf("got %v; fix %q", err, serving.FixOf(err))
		}
	}
	if err := forWantOf([]string{"A"}, os.ErrClosed); err != os.ErrClosed {
		t.Errorf("a fault of ours became %v", err)
	}
}

func TestVariablesFileIsReadWithCare(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, variablesFile)); err != nil {
		t.Fatal(err)
	}
	if got := unset(dir, nil); got != nil {
		t.Errorf("outside the folder: got %q", got)
	}
	if note := unsetNote(slices.Repeat([]string{"X"}, 12)); !strings.HasSuffix(note, "X, X, and 2 more") {
		t.Errorf("got %q", note)
	}
}
