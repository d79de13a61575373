package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"loadline.dev/loadline/serving"
)

// Names of the files in a replica's folder.
const (
	specFile   = "spec.json"
	stateFile  = "state.json"
	socketFile = "agent.sock"
	logFile    = "engine.log"
	workDir    = "work"
)

// readSpec reads what this replica is told to be.
func readSpec(dir string) (serving.Assignment, error) {
	var a serving.Assignment
	path := filepath.Join(dir, specFile)
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		return a, fmt.Errorf("read assignment %s: %w", path, err)
	}
	launch := a.Recipe.Launch
	switch {
	case a.Replica == "":
		return a, badSpec(path, "it names no replica")
	case len(launch.Argv) == 0 || !filepath.IsAbs(launch.Argv[0]):
		return a, badSpec(path, "the engine's program must be an absolute path")
	case launch.Protocol == serving.Onnx && launch.Native == nil:
		return a, badSpec(path, "there is nothing to run on ONNX Runtime")
	case launch.Protocol != serving.Worker && launch.Protocol != serving.HTTP && launch.Protocol != serving.Onnx:
		return a, badSpec(path, fmt.Sprintf("unknown protocol %q", launch.Protocol))
	}
	return a, nil
}

func badSpec(path, why string) error {
	return &serving.Error{Op: "read assignment", Subject: path, Kind: serving.Invalid, Err: fmt.Errorf("%s", why)}
}

// A record is what the agent says of itself in state.json, kept in step with
// the file.
type record struct {
	mu   sync.Mutex
	dir  string
	seen serving.Replica
}

func newRecord(dir string, a serving.Assignment) *record {
	now := time.Now().UTC()
	return &record{dir: dir, seen: serving.Replica{
		ID: a.Replica, Revision: a.Revision, State: serving.Starting, Addr: filepath.Join(dir, socketFile),
		PID: os.Getpid(), Started: now, Since: now,
	}}
}

// set changes the record and writes it. A state that could not be written is
// an error for the caller to report; the agent goes on.
func (r *record) set(change func(*serving.Replica)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.seen.State
	change(&r.seen)
	if r.seen.State != before {
		r.seen.Since = time.Now().UTC()
	}
	data, err := json.MarshalIndent(r.seen, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, stateFile)
	if err := os.WriteFile(path+".tmp", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (r *record) state() serving.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen.State
}
