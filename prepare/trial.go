package prepare

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/serving"
)

// A Trial proves recipes by starting their engine in a process of its own,
// which starts it in a sandbox. It is the [Prover] of the product.
type Trial struct {
	Dir    string // for its folders, one per trial
	Binary string // this program; it is run with "prepare --job FILE"

	// Unconfined starts engines without a sandbox, as their replicas will be.
	Unconfined bool
}

// A Job is what the child is told, as JSON in a file.
type Job struct {
	Recipe     serving.Recipe
	Dir        string // as a replica's: the engine may change Dir/work
	Unconfined bool

	// Candidates are compared with Recipe's engine, which is the Python one
	// then, on rows drawn from Columns.
	Candidates []serving.Native `json:",omitempty"`
	Columns    []column         `json:",omitempty"`
}

// A verdict is what the child found out, as JSON in a file.
type verdict struct {
	Proof Proof
	Why   string // what went wrong; empty when all went well
	Fix   string

	Comparisons []Comparison // one for each candidate of the job, unless Why says why not
}

const (
	jobFile     = "job.json"
	verdictFile = "verdict.json"
	noteFile    = "note.py"
	sourcesFile = "sources"
)

// defaultStart is how long an engine may take to load its model.
const defaultStart = 10 * time.Minute

//go:embed note.py
var notePy []byte

// Prove implements [Prover].
func (t *Trial) Prove(ctx context.Context, r serving.Recipe, log io.Writer, loaded func(source string)) (Proof, error) {
	v, err := t.run(ctx, Job{Recipe: r}, log, loaded)
	return v.Proof, err
}

// run gives a job to a child, and answers its verdict. A verdict that says why
// not is an error.
func (t *Trial) run(ctx context.Context, job Job, log io.Writer, loaded func(source string)) (verdict, error) {
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return verdict{}, err
	}
	dir, err := os.MkdirTemp(t.Dir, "prove-")
	if err != nil {
		return verdict{}, err
	}
	defer os.RemoveAll(dir)
	job.Dir, job.Unconfined = dir, t.Unconfined
	data, err := json.Marshal(job)
	if err != nil {
		return verdict{}, err
	}
	work := filepath.Join(dir, "work")
	err = errors.Join(os.Mkdir(work, 0o700), os.WriteFile(filepath.Join(work, noteFile), notePy, 0o600),
		os.WriteFile(filepath.Join(dir, jobFile), data, 0o600))
	if err != nil {
		return verdict{}, err
	}
	defer func() {
		if err := sandbox.Clean(filepath.Base(dir)); err != nil {
			fmt.Fprintf(log, "clean up after the trial: %v\n", err)
		}
	}()

	limit := job.limit() + 30*time.Second // the child keeps the limit; this is for a child that hangs
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(within, t.Binary, "prepare", "--job", filepath.Join(dir, jobFile))
	cmd.Dir, cmd.Env = dir, []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = log, log
	stop, err := follow(filepath.Join(work, sourcesFile), loaded)
	if err != nil {
		return verdict{}, err
	}
	failed := runToEnd(cmd)
	stop()
	if ctx.Err() != nil {
		return verdict{}, ctx.Err()
	}
	return t.judge(dir, failed, limit)
}

func (t *Trial) judge(dir string, failed error, limit time.Duration) (verdict, error) {
	var v verdict
	data, err := os.ReadFile(filepath.Join(dir, verdictFile))
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		return verdict{}, &serving.Error{Kind: serving.Internal,
			Err: fmt.Errorf("the trial ended without a verdict within %v: %w", limit, errors.Join(failed, err))}
	}
	if v.Why != "" {
		return verdict{}, &serving.Error{Kind: serving.Invalid, Err: errors.New(v.Why), Fix: v.Fix}
	}
	return v, nil
}

// limit is the time that the child allows itself.
func (j Job) limit() time.Duration {
	limit := allowed(j.Recipe)
	if len(j.Candidates) > 0 {
		limit += compareTime
	}
	return limit
}

func allowed(r serving.Recipe) time.Duration {
	if r.Limits.Start > 0 {
		return r.Limits.Start
	}
	return defaultStart
}

// runToEnd runs a command that takes its group with it when it is cancelled,
// and dies when this process does.
func runToEnd(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	return runGroup(cmd)
}

func runGroup(cmd *exec.Cmd) error {
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	// The death signal is tied to the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}
