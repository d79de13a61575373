package contract

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/agent/pyworker"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/test/harness"
	"loadline.dev/loadline/worker"
)

// python returns the interpreter of the shared test environment with MLflow.
func python(t *testing.T) string {
	t.Helper()
	return harness.Needed(t, "LOADLINE_TEST_PYTHON")
}

// vars is the environment of every Python here. The order of sets, which
// MLflow's sentences contain, depends on the hash seed.
func vars() []string {
	return []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + os.TempDir(), "PYTHONHASHSEED=0", "PYTHONWARNINGS=ignore",
		"MLFLOW_TRACKING_URI=sqlite://", "OMP_NUM_THREADS=1"}
}

// An ask is one request of the differential test.
type ask struct {
	Model, Name string
	Type        *string
	Body        []byte
	Clean       bool
}

func (a ask) contentType() string {
	if a.Type == nil {
		return ""
	}
	return *a.Type
}

// An answer is what came back.
type answer struct {
	status int
	media  string
	body   string
}

func (a answer) String() string {
	return fmt.Sprintf("%d %s %s", a.status, a.media, a.body)
}

// allowed are the differences that CONTRACT §3 demands, and why. Each is only
// for requests at which MLflow's own server crashes with a bare sentence.
func allowed(ours, theirs answer) string {
	if theirs.status != 500 || theirs.body != "Internal Server Error" {
		return ""
	}
	var form struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	if ours.media != "application/json" || json.Unmarshal([]byte(ours.body), &form) != nil || form.Code == "" || form.Message == "" {
		return ""
	}
	switch {
	case ours.status == 400 && strings.Contains(form.Message, "no Content-Type"):
		return "no Content-Type: 400 instead of a crash"
	case ours.status == 400 && strings.Contains(form.Message, "nested too deeply"):
		return "nested too deeply: 400 instead of a crash"
	case ours.status == 400 && strings.Contains(form.Message, "integer string conversion"):
		return "integer of thousands of digits: 400 instead of a crash"
	case ours.status == 400 && strings.HasPrefix(form.Message, "Invalid input. The body cannot be read: "):
		return "other bodies that MLflow's parser crashes at: 400"
	case ours.status == 500 && strings.HasPrefix(form.Message, "The model's answer cannot be written as JSON: "):
		return "answer that is not JSON: the same 500 with a reason"
	case ours.status == 400 && strings.HasSuffix(form.Message, "\nError: more"):
		return "error with members that are not JSON: its status and text without them"
	}
	return ""
}

// fleeting is what differs from process to process: addresses, and where the
// stack ended when the model recursed without end.
var fleeting = regexp.MustCompile(`0x[0-9a-f]{6,}|(?:\\n  File \\"<dynamic-code>\\", line \d+, in \w+){10,}.*`)

func TestAnswersAreMLflows(t *testing.T) {
	interp := python(t)
	dir := t.TempDir()
	asks := makeAsks(t, interp, dir)
	base := startReference(t, interp, dir)
	app, err := worker.Install(dir)
	if err != nil {
		t.Fatal(err)
	}
	tally := tally{allowed: map[string]int{}}
	start := time.Now()
	var turn sync.WaitGroup
	places := make(chan struct{}, 2)
	for _, model := range slices.Sorted(keys(asks)) {
		turn.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			e := worked(interp, app, filepath.Join(dir, "models", model))
			if err := e.Start(context.Background()); err != nil {
				t.Errorf("%s: %v", model, err)
				return
			}
			defer e.Stop(5 * time.Second)
			for _, a := range asks[model] {
				tally.compare(t, base, e, a)
			}
			together(t, model, e, asks[model])
			beyond(t, model, e)
			tally.crossed(e.Stats())
		})
	}
	turn.Wait()
	tally.report(t, len(asks), time.Since(start))
	for _, model := range convertible {
		t.Run("native/"+model, func(t *testing.T) { natively(t, base, filepath.Join(dir, "models", model), app, asks[model]) })
	}
}

// worked is the Python engine of a model, not started.
func worked(interp, app, model string) *pyworker.Engine {
	return pyworker.New(pyworker.Config{Command: func() (*exec.Cmd, error) {
		cmd := exec.Command(interp, app, "--model", model)
		cmd.Env = vars()
		return cmd, nil
	}})
}

// A tally counts what the comparison found.
type tally struct {
	mu                      sync.Mutex
	requests, equal, differ int
	clean                   int
	columns, raw, texts     int
	good, bad               int
	allowed                 map[string]int
	tookOurs, tookTheirs    time.Duration
}

func (y *tally) compare(t *testing.T, base string, e *pyworker.Engine, a ask) {
	start := time.Now()
	theirs, err := askReference(base, a)
	if err != nil {
		t.Errorf("%s: %s: the reference: %v", a.Model, a.Name, err)
		return
	}
	took := time.Since(start)
	before, _ := e.Crossed()
	start = time.Now()
	ours, err := askOurs(e, a, a.contentType())
	if err != nil {
		t.Errorf("%s: %s: %v", a.Model, a.Name, err)
		return
	}
	tookOurs := time.Since(start)
	after, _ := e.Crossed()
	forced := ours
	if a.Clean {
		// With a blank before the semicolon MLflow reads the same, and columns are not tried.
		if forced, err = askOurs(e, a, "application/json ; charset=utf-8"); err != nil {
			t.Errorf("%s: %s: raw: %v", a.Model, a.Name, err)
			return
		}
		if still, _ := e.Crossed(); still != after {
			t.Errorf("%s: %s: was to go raw and crossed as columns", a.Model, a.Name)
		}
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.tookOurs += tookOurs
	y.tookTheirs += took
	y.requests++
	if a.Clean {
		y.clean++
		if after == before {
			y.differ++
			t.Errorf("%s: %s: was to cross as columns and went raw: %.300s", a.Model, a.Name, a.Body)
			return
		}
	}
	if theirs.status < 300 {
		y.good++
	} else {
		y.bad++
	}
	theirs, ours, forced = normal(theirs), normal(ours), normal(forced)
	reason := allowed(ours, theirs)
	switch {
	case ours != forced:
		y.differ++
		t.Errorf("%s: %s: columns and raw differ\ncolumns %.1500v\n    raw %.1500v\nrequest %.300s", a.Model, a.Name, ours, forced, a.Body)
	case ours == theirs:
		y.equal++
	case reason != "":
		y.allowed[reason]++
	default:
		y.differ++
		if y.differ < 40 {
			t.Errorf("%s: %s (%s)\n  ours %.800v\nmlflow %.800v\nrequest %.300s", a.Model, a.Name, a.contentType(), ours, theirs, a.Body)
		}
	}
}

func normal(a answer) answer {
	a.body = fleeting.ReplaceAllString(a.body, "…")
	return a
}

func (y *tally) crossed(s pyworker.Stats) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.columns += int(s.Columns)
	y.raw += int(s.Raw)
	y.texts += int(s.Texts)
}

func (y *tally) report(t *testing.T, models int, took time.Duration) {
	t.Logf("%d models, %d requests (%d good, %d bad) in %v: %d equal, %d different", models, y.requests, y.good, y.bad,
		took.Round(time.Millisecond), y.equal, y.differ)
	for _, reason := range slices.Sorted(keys(y.allowed)) {
		t.Logf("%5d allowed: %s", y.allowed[reason], reason)
	}
	t.Logf("%d crossed as columns (%d of them answered by MLflow's text), %d raw; every one of %d clean requests went both ways",
		y.columns, y.texts, y.raw, y.clean)
	t.Logf("time in requests: ours %v, MLflow's %v", y.tookOurs.Round(time.Millisecond), y.tookTheirs.Round(time.Millisecond))
	if models < 15 || y.requests < 3000 {
		t.Errorf("%d models and %d requests are too few to say anything", models, y.requests)
	}
	if y.differ > 0 {
		t.Errorf("%d of %d answers differ", y.differ, y.requests)
	}
}

func keys[M ~map[K]V, K comparable, V any](m M) func(yield func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func makeAsks(t *testing.T, interp, dir string) map[string][]ask {
	t.Helper()
	// Another seed asks other questions.
	cmd := exec.Command(interp, script(t, "scoring_requests.py"), dir, cmp.Or(os.Getenv("LOADLINE_TEST_SEED"), "1"))
	cmd.Env, cmd.Dir = vars(), dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making models and requests: %v\n%s", err, tail(out))
	}
	file, err := os.Open(filepath.Join(dir, "requests.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	asks := map[string][]ask{}
	dec := json.NewDecoder(bufio.NewReader(file))
	for {
		var a ask
		if err := dec.Decode(&a); err == io.EOF {
			return asks
		} else if err != nil {
			t.Fatal(err)
		}
		asks[a.Model] = append(asks[a.Model], a)
	}
}

// script is the path of a script beside this file, for a Python that runs elsewhere.
func script(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func tail(out []byte) []byte { return out[max(0, len(out)-3000):] }

func startReference(t *testing.T, interp, dir string) string {
	t.Helper()
	cmd := exec.Command(interp, script(t, "scoring_reference.py"), filepath.Join(dir, "models"))
	cmd.Env, cmd.Dir = vars(), dir
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var port int
		if n, _ := fmt.Sscanf(lines.Text(), "%d", &port); n == 1 {
			go func() {
				for lines.Scan() { // what the models print
				}
			}()
			return fmt.Sprintf("http://127.0.0.1:%d/", port)
		}
	}
	_ = cmd.Wait()
	t.Fatalf("MLflow's server did not start:\n%s", tail(log.Bytes()))
	return ""
}

func askReference(base string, a ask) (answer, error) {
	req, err := http.NewRequest("POST", base+a.Model+"/invocations", bytes.NewReader(a.Body))
	if err != nil {
		return answer{}, err
	}
	if a.Type != nil {
		req.Header["Content-Type"] = []string{*a.Type}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		// MLflow's server closes a connection on which it crashed, sometimes late.
		req.Body, _ = req.GetBody()
		if res, err = http.DefaultClient.Do(req); err != nil {
			return answer{}, err
		}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header.Get("Content-Type"), string(body)}, err
}

// A taker keeps an answer.
type taker struct {
	answer
	body bytes.Buffer
}

func (k *taker) Head(status int, header []link.Field, _ int64) error {
	k.status = status
	for _, f := range header {
		if f.Name == "Content-Type" {
			k.media = f.Value
		}
	}
	return nil
}

func (k *taker) Write(p []byte) (int, error) { return k.body.Write(p) }
func (k *taker) Flush() error                { return nil }

func askOurs(e agent.Engine, a ask, contentType string) (answer, error) {
	r := agent.Request{Method: "POST", Path: "/invocations", ContentType: contentType, Body: bytes.NewReader(a.Body), Size: int64(len(a.Body))}
	if a.Type != nil {
		r.Header = []link.Field{{Name: "Content-Type", Value: contentType}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var k taker
	err := e.Do(ctx, &r, &k)
	k.answer.body = k.body.String()
	return k.answer, err
}
