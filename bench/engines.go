package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"loadline.dev/loadline/test/harness"
)

// engineModels narrows the suite down while something is being tried.
var engineModels = flag.String("models", "", "a `pattern`: only these models of the suite of engines")

// engineClients are the connections over which the suite of engines asks, each
// with one request at a time.
var engineClients = []int{4, 64}

// An engineRow is what was measured of one engine with one model.
type engineRow struct {
	Model, Subject string
	Rows, Clients  int
	CPU            map[string]series // part → µs per request; "whole" is their sum
	PerCPUSecond   series
	P50            series // ms
	PSS            int64  // bytes of one replica, of the server for MLflow's
	ModelBytes     int64  // of the ONNX file, for native
	Limit          series // native: CPU µs of a bare ONNX Runtime call on inputs that are ready
}

// engines compares the native engine with the Python engine and with MLflow's
// own server on the same models: one row a request and a hundred.
func (b *bench) engines(ctx context.Context) (any, error) {
	if err := b.startEngines(ctx); err != nil {
		return nil, err
	}
	var all []engineRow
	var goals []goal
	wanted, err := regexp.Compile(*engineModels)
	if err != nil {
		return nil, err
	}
	for _, model := range []string{"logistic", "xgboost", "forest", "pipeline"} {
		if !wanted.MatchString(model) {
			continue
		}
		rows, more, err := b.engineModel(ctx, model)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", model, err)
		}
		all, goals = append(all, rows...), append(goals, more...)
	}
	printEngines(all)
	printGoals(os.Stdout, goals)
	return all, nil
}

// startEngines trains the models, and brings up `loadline up` unless another
// suite has.
func (b *bench) startEngines(ctx context.Context) error {
	train := harness.Python(ctx, b.python, "-W", "ignore", "engines.py", b.dir, "../test/env/model-requirements.txt")
	if text, err := train.CombinedOutput(); err != nil {
		return fmt.Errorf("engines.py: %w:\n%s", err, text)
	}
	if len(b.servers) > 0 {
		return nil
	}
	port, err := harness.FreePort()
	if err != nil {
		return err
	}
	up, err := harness.Listen(ctx, b.loadline(ctx, "up", "--listen", fmt.Sprintf("127.0.0.1:%d", port)), port, "/readyz", filepath.Join(b.dir, "loadline.log"))
	if err != nil {
		return err
	}
	b.servers, b.host = append(b.servers, up), up.URL
	return nil
}

// A contender is a subject and what is known of it beside its processes.
type contender struct {
	subject
	limit func(rows int) (*floor, error) // nil but for native
	bytes int64
}

func (b *bench) engineModel(ctx context.Context, model string) ([]engineRow, []goal, error) {
	native, err := b.engine(ctx, model, "native")
	if err != nil {
		return nil, nil, err
	}
	python, err := b.engine(ctx, model, "python")
	if err != nil {
		return nil, nil, err
	}
	server, err := harness.Scoring(ctx, b.python, filepath.Join(b.dir, model), filepath.Join(b.dir, model+"-mlflow.log"))
	if err != nil {
		return nil, nil, err
	}
	defer server.Stop()
	mlflow := contender{subject: subject{"mlflow", server.URL + "/invocations", map[string]int{"server": server.PID}}}
	contenders := []contender{native, python, mlflow}
	var rows []engineRow
	var goals []goal
	for _, n := range []int{1, 100} {
		var bodies []string
		if err := readBodies(filepath.Join(b.dir, fmt.Sprintf("%s.%d.json", model, n)), &bodies); err != nil {
			return nil, nil, err
		}
		if err := b.sameAnswers(ctx, contenders, bodies); err != nil {
			return nil, nil, err
		}
		some, more, err := b.engineRounds(ctx, model, n, contenders, bodies)
		if err != nil {
			return nil, nil, err
		}
		rows, goals = append(rows, some...), append(goals, more...)
	}
	size := float64(rows[0].PSS) / 1e6
	allowed := 45 + 1.2*float64(native.bytes)/1e6
	return rows, append(goals, goal{model + ", native: replica PSS, MB", size, allowed, true}), nil
}

// engineRounds asks all contenders in turn, with each number of connections.
func (b *bench) engineRounds(ctx context.Context, model string, n int, contenders []contender, bodies []string) ([]engineRow, []goal, error) {
	var all []engineRow
	var goals []goal
	for _, clients := range engineClients {
		rows := make([]engineRow, len(contenders))
		var limit series
		for i, c := range contenders {
			rows[i] = engineRow{Model: model, Subject: c.name, Rows: n, Clients: clients, CPU: map[string]series{}}
		}
		bare, err := contenders[0].limit(n)
		if err != nil {
			return nil, nil, err
		}
		for range b.rounds {
			for i, c := range contenders {
				if err := b.engineRound(ctx, c.subject, bodies, &rows[i]); err != nil {
					bare.stop()
					return nil, nil, err
				}
			}
			var us float64
			if us, err = bare.one(); err != nil {
				break
			}
			limit = append(limit, us)
		}
		bare.stop()
		if err != nil {
			return nil, nil, err
		}
		for i := range rows {
			e := &rows[i]
			var pids []int
			for part, pid := range contenders[i].pids {
				if part != "gateway" {
					pids = append(pids, pid)
				}
			}
			if e.PSS, err = pss(pids...); err != nil {
				return nil, nil, err
			}
			if i == 0 {
				e.Limit, e.ModelBytes = limit, contenders[i].bytes
			}
		}
		all, goals = append(all, rows...), append(goals, engineGoals(rows)...)
	}
	return all, goals, nil
}

// engineRound asks s for a stretch, over as many connections as r says, and adds
// what it cost to r.
func (b *bench) engineRound(ctx context.Context, s subject, bodies []string, r *engineRow) error {
	before := map[string]time.Duration{}
	for part, pid := range s.pids {
		var err error
		if before[part], err = cpu(pid); err != nil {
			return err
		}
	}
	took, err := b.askMany(ctx, s.url, bodies, r.Clients)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	whole := 0.0
	for part, pid := range s.pids {
		after, err := cpu(pid)
		if err != nil {
			return err
		}
		us := float64((after - before[part]).Nanoseconds()) / 1e3 / float64(len(took))
		r.CPU[part] = append(r.CPU[part], us)
		whole += us
	}
	r.CPU["whole"] = append(r.CPU["whole"], whole)
	r.PerCPUSecond = append(r.PerCPUSecond, 1e6/whole)
	r.P50 = append(r.P50, took.median())
	return nil
}

// askMany sends requests over n connections for a stretch, and returns how long
// each took, in ms.
func (b *bench) askMany(ctx context.Context, url string, bodies []string, n int) (series, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, DisableCompression: true}}
	defer client.CloseIdleConnections()
	took, failed := make([]series, n), make([]error, n)
	end := time.Now().Add(b.stretch)
	var clients sync.WaitGroup
	for k := range n {
		clients.Go(func() {
			for i := k; time.Now().Before(end) && ctx.Err() == nil && failed[k] == nil; i += n {
				start := time.Now()
				failed[k] = post(client, url, bodies[i%len(bodies)])
				took[k] = append(took[k], float64(time.Since(start).Microseconds())/1e3)
			}
		})
	}
	clients.Wait()
	all := slices.Concat(took...)
	if err := errors.Join(errors.Join(failed...), ctx.Err()); err != nil || len(all) == 0 {
		return nil, fmt.Errorf("nobody answered: %w", err)
	}
	return all, nil
}

// engineGoals judges one round's rows: native, python, mlflow.
func engineGoals(rows []engineRow) []goal {
	native, mlflow := rows[0], rows[len(rows)-1]
	var ratio, limit series
	for k := range native.PerCPUSecond {
		ratio = append(ratio, native.PerCPUSecond[k]/mlflow.PerCPUSecond[k])
		limit = append(limit, native.CPU["whole"][k]/native.Limit[k])
	}
	least := 100.0
	switch {
	case native.Rows > 1 && (native.Model == "xgboost" || native.Model == "forest"):
		least = 10
	case native.Rows > 1:
		least = 30
	}
	what := fmt.Sprintf("%s, %d rows, %d connections: ", native.Model, native.Rows, native.Clients)
	return []goal{{what + "requests per CPU-second, × MLflow's server", ratio.median(), least, false},
		{what + "CPU of the whole, × a bare ONNX Runtime call", limit.median(), 1.6, true}}
}

func readBodies(file string, into *[]string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// sameAnswers has all contenders answer the same bodies, and compares.
func (b *bench) sameAnswers(ctx context.Context, contenders []contender, bodies []string) error {
	for _, body := range bodies {
		var first string
		for i, c := range contenders {
			status, text, err := harness.Ask(ctx, c.url, body)
			if err != nil || status != 200 {
				return fmt.Errorf("%s answered %d %.300s, %w", c.name, status, text, err)
			}
			if i == 0 {
				first = text
			} else if !alike(first, text) {
				return fmt.Errorf("answers differ for %.300s: native %.300s, %s %.300s", body, first, c.name, text)
			}
		}
	}
	return nil
}

// alike compares answers: numbers within 1e-5 of each other or 1e-6 apart.
func alike(a, b string) bool {
	var x, y any
	return a == b || json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && equal(x, y)
}

func equal(x, y any) bool {
	switch x := x.(type) {
	case float64:
		y, ok := y.(float64)
		d := math.Abs(x - y)
		return ok && (d <= 1e-6 || d <= 1e-5*max(math.Abs(x), math.Abs(y)))
	case []any:
		y, ok := y.([]any)
		for i := range x {
			ok = ok && len(x) == len(y) && equal(x[i], y[i])
		}
		return ok
	case map[string]any:
		y, ok := y.(map[string]any)
		for k := range x {
			ok = ok && len(x) == len(y) && equal(x[k], y[k])
		}
		return ok
	}
	return x == y
}

var precisionRE = regexp.MustCompile(`native \((float\d+)\)`)

// engine deploys a model on one engine and finds its processes.
func (b *bench) engine(ctx context.Context, model, engine string) (contender, error) {
	name := model + "-" + engine
	if out, err := b.loadline(ctx, "deploy", name, filepath.Join(b.dir, model), "--engine", engine).CombinedOutput(); err != nil {
		return contender{}, fmt.Errorf("deploy: %w:\n%s", err, out)
	}
	out, err := b.loadline(ctx, "describe", name, "-o", "json").Output()
	if err != nil {
		return contender{}, fmt.Errorf("describe: %w", err)
	}
	var d struct {
		Entities []struct {
			Why      string `json:"why"`
			Replicas []struct {
				PID    int `json:"pid"`
				Engine int `json:"engine_pid"`
			} `json:"replicas"`
		} `json:"entities"`
	}
	if err := json.Unmarshal(out, &d); err != nil || len(d.Entities) == 0 || len(d.Entities[0].Replicas) == 0 {
		return contender{}, fmt.Errorf("describe shows no replica: %w\n%s", err, out)
	}
	r := d.Entities[0].Replicas[0]
	c := contender{subject: subject{name: engine, url: b.host + "/serving-endpoints/" + name + "/invocations",
		pids: map[string]int{"gateway": b.servers[0].PID, "agent": r.PID}}}
	if engine != "native" {
		c.pids["worker"] = r.Engine
		return c, nil
	}
	fmt.Printf("%s: %s\n", model, d.Entities[0].Why)
	precision := precisionRE.FindStringSubmatch(d.Entities[0].Why)
	if precision == nil {
		return contender{}, fmt.Errorf("describe names no precision: %s", d.Entities[0].Why)
	}
	file, err := newest(filepath.Join(b.dir, "data", "native", "*", precision[1]+".onnx"))
	if err != nil {
		return contender{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return contender{}, err
	}
	c.bytes = info.Size()
	c.limit = func(rows int) (*floor, error) {
		return b.session(ctx, file, filepath.Join(b.dir, fmt.Sprintf("%s.%d.json", model, rows)))
	}
	return c, nil
}

// newest is the youngest file that matches.
func newest(pattern string) (string, error) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("there is no %s: %w", pattern, err)
	}
	best, at := "", int64(0)
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.ModTime().UnixNano() > at {
			best, at = file, info.ModTime().UnixNano()
		}
	}
	return best, nil
}

// session starts the process that measures a bare call of ONNX Runtime, with
// the Python of the environment that the deployment made for it.
func (b *bench) session(ctx context.Context, model, bodies string) (*floor, error) {
	found, err := filepath.Glob(filepath.Join(b.dir, "data", "envs", "*", "lib", "python3*", "site-packages", "onnxruntime"))
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("no ONNX Runtime was installed: %w", err)
	}
	python := filepath.Join(found[0], "..", "..", "..", "..", "bin", "python")
	cmd := exec.CommandContext(ctx, python, "session.py", model, filepath.Join(filepath.Dir(model), "plan.json"), bodies)
	return begin(cmd, "session.py")
}

// one returns the CPU microseconds of a request.
func (f *floor) one() (us float64, err error) {
	if _, err := fmt.Fprintln(f.in); err != nil {
		return 0, err
	}
	if !f.out.Scan() {
		return 0, fmt.Errorf("session.py ended")
	}
	_, err = fmt.Sscan(f.out.Text(), &us)
	return us, err
}

func printEngines(rows []engineRow) {
	fmt.Printf("\nEngines: median (least–most)\n")
	tab := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "MODEL\tROWS\tCONNECTIONS\tENGINE\tCPU µs/request\tgateway\tagent\tworker or server\trequests/CPU-s\tp50 ms\tPSS\tbare call µs")
	for _, r := range rows {
		inner := r.CPU["worker"]
		if inner == nil {
			inner = r.CPU["server"]
		}
		fmt.Fprintln(tab, strings.Join([]string{r.Model, fmt.Sprint(r.Rows), fmt.Sprint(r.Clients), r.Subject, r.CPU["whole"].String(), r.CPU["gateway"].String(),
			r.CPU["agent"].String(), inner.String(), r.PerCPUSecond.String(), r.P50.String(), fmt.Sprintf("%.1f MB", float64(r.PSS)/1e6), r.Limit.String()}, "\t"))
	}
	tab.Flush()
	fmt.Println()
}
