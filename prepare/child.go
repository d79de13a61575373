package prepare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/serving"
)

// A Candidate is an engine that is being tried.
type Candidate interface {
	// Start returns once the model is loaded, or with the decisive reason why not.
	Start(ctx context.Context) error
	// Ask sends one POST to /invocations.
	Ask(ctx context.Context, body []byte, contentType string) (status int, answer []byte, err error)
	// Stop ends the process, at once when grace is zero.
	Stop(grace time.Duration)
}

// An Attempt is what a [Candidate] is made from.
type Attempt struct {
	Recipe serving.Recipe

	// Command makes the engine's process, confined, not started. port is what
	// it is to listen on; zero for an engine that speaks no HTTP.
	Command func(port int) (*exec.Cmd, error)

	// Spawn starts such a command so that it dies with this process.
	Spawn func(*exec.Cmd) error

	// Alone wants [serving.Onnx] without its reserve: what it does not answer
	// itself ends with [ErrDeclined].
	Alone bool
}

// Child is the process of a [Trial]. Its arguments are "--job FILE". It returns
// the exit status. What the engine writes goes to stderr.
func Child(args []string, try func(Attempt) Candidate) int {
	if len(args) != 2 || args[0] != "--job" {
		fmt.Fprintln(os.Stderr, "prepare: this is a process of the server's own: prepare --job FILE")
		return 2
	}
	var job Job
	data, err := os.ReadFile(args[1])
	if err == nil {
		err = json.Unmarshal(data, &job)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "prepare: %v\n", err)
		return 1
	}
	v := job.run(try)
	if data, err = json.Marshal(v); err == nil {
		err = os.WriteFile(filepath.Join(job.Dir, verdictFile), data, 0o600)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "prepare: %v\n", err)
		return 1
	}
	if v.Why != "" {
		return 1
	}
	return 0
}

func (j Job) run(try func(Attempt) Candidate) (v verdict) {
	ctx, cancel := context.WithTimeout(context.Background(), j.limit())
	defer cancel()
	t := new(trace)
	c := try(Attempt{Recipe: j.Recipe, Spawn: spawner(), Command: func(port int) (*exec.Cmd, error) {
		cmd, err := j.command(port)
		if err == nil {
			t.follow(cmd)
		}
		return cmd, err
	}})
	defer c.Stop(0)
	began := time.Now()
	v.Why, v.Fix = j.load(ctx, c, t)
	v.Proof.Loaded = time.Since(began)
	if v.Why == "" && len(j.Recipe.Example) > 0 {
		began = time.Now()
		v.Why, v.Fix = j.answer(ctx, c, t)
		v.Proof.Answered = time.Since(began)
	}
	if v.Why == "" && len(j.Candidates) > 0 {
		v.Comparisons = j.compare(ctx, c, try)
	}
	return v
}

// load starts the engine, or says why that cannot be.
func (j Job) load(ctx context.Context, c Candidate, t *trace) (why, fix string) {
	err := c.Start(ctx)
	if err == nil {
		return "", ""
	}
	late := ctx.Err() != nil
	c.Stop(0) // all that it had to say is then said
	switch {
	case j.starved():
		return j.tooLittle("while it was loaded")
	case late:
		return fmt.Sprintf("the model was not loaded after %v", allowed(j.Recipe)) + t.late(err),
			"see how far it got with: loadline logs NAME --build; if it only needs longer: loadline up --start-timeout"
	}
	why = "the model does not load: " + t.explain(err)
	return why, adviceFor(why)
}

// answer asks the engine its own example, or says why it does not answer it.
func (j Job) answer(ctx context.Context, c Candidate, t *trace) (why, fix string) {
	r := j.Recipe
	if r.Limits.Request > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Limits.Request)
		defer cancel()
	}
	began := time.Now()
	status, answer, err := c.Ask(ctx, r.Example, r.ExampleType)
	took := time.Since(began)
	if err != nil {
		c.Stop(0)
	}
	switch {
	case err != nil && j.starved():
		return j.tooLittle("while it answered its own example")
	case errors.Is(err, context.DeadlineExceeded):
		why = fmt.Sprintf("the model did not answer its own example within %v", took.Round(time.Second))
	case err != nil:
		why = "the model does not answer its own example: " + t.explain(err)
	case status != 200:
		why = fmt.Sprintf("the model does not answer its own example: %d: %s", status, messageOf(answer))
	default:
		return "", ""
	}
	return why, adviceFor(why)
}

// starved says whether the kernel ended the engine for want of memory.
func (j Job) starved() bool { return sandbox.Starved(filepath.Base(j.Dir)) }

func (j Job) tooLittle(when string) (why, fix string) {
	return fmt.Sprintf("the model ran out of memory %s: it may have %d MiB", when, j.memory()>>20),
		"allow replicas more memory: loadline up --memory"
}

// command makes the engine's process as an agent would, plus the note of what
// it loads.
func (j Job) command(port int) (*exec.Cmd, error) {
	l := j.Recipe.Launch
	work := filepath.Join(j.Dir, "work")
	fill := strings.NewReplacer("{port}", strconv.Itoa(port), "{dir}", j.Dir)
	var argv []string
	for _, a := range l.Argv {
		argv = append(argv, fill.Replace(a))
	}
	vars := map[string]string{}
	for k, v := range l.Vars {
		vars[k] = fill.Replace(v)
	}
	vars["HOME"], vars["TMPDIR"] = work, work
	if port != 0 {
		vars["PORT"] = strconv.Itoa(port)
	}
	if env := j.Recipe.Env.Dir; env != "" && len(argv) > 2 && argv[0] == filepath.Join(env, "bin", "python") && argv[1] == "-I" {
		argv = slices.Insert(argv, 2, filepath.Join(work, noteFile), filepath.Join(work, sourcesFile))
	}
	var cmd *exec.Cmd
	if j.Unconfined {
		cmd = exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.SysProcAttr = work, new(syscall.SysProcAttr)
		for k, v := range vars {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	} else {
		var err error
		if cmd, err = sandbox.Command(context.Background(), j.policy(work, argv, vars, port), argv...); err != nil {
			return nil, err
		}
	}
	dieWithParent(cmd.SysProcAttr)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd, nil
}

// Bounds of a trial where the recipe has none: a model that forks for ever or
// fills the disk must not take the machine along.
const (
	trialProcesses = 512 // threads count, and numeric libraries start many
	trialFile      = 4 << 30
	trialOpen      = 4096
)

func (j Job) policy(work string, argv []string, vars map[string]string, port int) sandbox.Policy {
	r := j.Recipe
	p := sandbox.Policy{Name: filepath.Base(j.Dir), Write: []string{work}, Memory: j.memory(), Processes: r.Limits.Processes,
		FileSize: trialFile, OpenFiles: trialOpen, Dir: work, Vars: vars}
	if p.Processes == 0 {
		p.Processes = trialProcesses
	}
	// The worker's zipapp is among the arguments.
	for _, path := range slices.Concat([]string{r.Model.Dir, r.Env.Dir}, r.Launch.Reads, argv[1:]) {
		if _, err := os.Stat(path); err == nil && filepath.IsAbs(path) {
			p.Read = append(p.Read, path)
		}
	}
	switch {
	case r.Egress:
		p.Network = sandbox.Open // its example may need what it calls
	case port != 0:
		p.Network, p.Ports = sandbox.Loopback, []int{port}
	}
	return p
}

func (j Job) memory() int64 {
	if m := j.Recipe.Limits.Memory; m > 0 {
		return m
	}
	return mostMemory()
}

// mostMemory is four fifths of this machine's, or zero where that is not known.
func mostMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	var kB int64
	if n, _ := fmt.Sscanf(string(text), "MemTotal: %d kB", &kB); err != nil || n != 1 {
		return 0
	}
	return kB * 1024 / 5 * 4
}

// spawner returns what starts commands from one thread that lives as long as
// this process: their death signal is tied to the thread.
func spawner() func(*exec.Cmd) error {
	type start struct {
		cmd  *exec.Cmd
		done chan error
	}
	starts := make(chan start)
	go func() {
		runtime.LockOSThread()
		for s := range starts {
			s.done <- s.cmd.Start()
		}
	}()
	return func(cmd *exec.Cmd) error {
		s := start{cmd, make(chan error, 1)}
		starts <- s
		return <-s.done
	}
}

// messageOf is the sentence in an error answer.
func messageOf(answer []byte) string {
	var e struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(answer, &e) != nil || e.Message == "" {
		e.Message = string(answer)
	}
	const most = 1000
	text := strings.ToValidUTF8(strings.TrimSpace(e.Message), "\uFFFD")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

var (
	noModuleRE = regexp.MustCompile(`No module named '?([A-Za-z0-9_.]+)`)
	noWriteRE  = regexp.MustCompile(`(?:Permission denied|Read-only file system): '/`)
	noNetRE    = regexp.MustCompile(`(?i)PermissionError: \[Errno 13\] Permission denied$|failed to establish a new connection|max retries exceeded|` +
		`name resolution|name or service not known|APIConnectionError|ConnectError`)
)

// adviceFor says what helps against the usual reasons.
func adviceFor(why string) string {
	if m := noModuleRE.FindStringSubmatch(why); m != nil {
		name, _, _ := strings.Cut(m[1], ".")
		return fmt.Sprintf("log the model again with the package that provides %s among its pip_requirements, or its source in code_paths", name)
	}
	switch {
	case noWriteRE.MatchString(why):
		return "let the model write where it may: in $HOME, in its current folder, or with the tempfile module; its own files and /tmp are closed to it"
	case noNetRE.MatchString(why):
		return "a model's process has no network: log what it would download among its artifacts and read it from there, or allow connections with --egress"
	}
	return "see the whole traceback with: loadline logs NAME --build"
}
