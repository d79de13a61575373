package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"loadline.dev/loadline/test/harness"
)

// A bench is one run: the subjects that it started and how it asks them.
type bench struct {
	bin, python, dir, results string

	rounds, clients int
	stretch         time.Duration

	servers []*harness.Server
	host    string

	modes, subjects string // patterns; what the path suite measures

	self    string // this binary
	pin     bool
	spawned []*exec.Cmd
}

func (b *bench) stop() {
	for _, cmd := range b.spawned {
		_ = cmd.Wait() // asked to end with the context
	}
	for _, s := range b.servers {
		s.Stop()
	}
}

// A subject answers one model's requests.
type subject struct {
	name string
	url  string
	pids map[string]int // part → process; "" when there is but one
}

// A row is what was measured of one subject with one model.
type row struct {
	Model, Subject string
	Clients        int               // connections, each with one request at a time
	CPU            map[string]series // part → µs per request; "whole" is their sum
	PerCPUSecond   series            // requests per CPU-second of the whole
	P50            series            // ms
	PSS            int64             // bytes of what one replica adds
	Alone          int64             `json:",omitempty"` // of PSS, MLflow's server without the process that started it and waits
}

// spine compares the whole path (gateway, agent, Python worker) with MLflow's
// own server on the same models, one row a request, alone and from many clients
// at once, and with the floors: a bare PyFuncModel.predict on a ready frame, and
// the predict of the flavour's wrapper inside it.
func (b *bench) spine(ctx context.Context) (any, error) {
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	var all []row
	var goals []goal
	for _, model := range []string{"logistic", "xgboost"} {
		rows, err := b.model(ctx, model)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", model, err)
		}
		all = append(all, rows...)
		goals = append(goals, spineGoals(model, rows)...)
	}
	b.print(all)
	printGoals(os.Stdout, goals)
	return all, nil
}

// spineGoals judges the rows of one model, in the order in which [bench.model] makes them.
func spineGoals(model string, rows []row) []goal {
	var goals []goal
	wrapper := rows[len(rows)-1].CPU["whole"]
	for i := 0; i < len(rows)-2; i += 2 { // the last two are the floors
		ours, theirs := rows[i], rows[i+1]
		var ratio series
		for k := range ours.PerCPUSecond {
			ratio = append(ratio, ours.PerCPUSecond[k]/theirs.PerCPUSecond[k])
		}
		what := fmt.Sprintf("%s, %d connections: ", model, ours.Clients)
		switch {
		case ours.Clients == 1:
			var over series
			for k, cpu := range ours.CPU["whole"] {
				over = append(over, cpu-wrapper[k])
			}
			goals = append(goals, goal{what + "CPU over the wrapper's predict, µs a request", over.median(), 150, true})
		case ours.Clients >= 32:
			goals = append(goals, goal{what + "requests per CPU-second, × MLflow's server", ratio.median(), 15, false})
		default:
			goals = append(goals, goal{what + "requests per CPU-second, × MLflow's server", ratio.median(), 1.5, false},
				goal{what + "replica memory, × mlflow models serve", float64(ours.PSS) / float64(theirs.PSS), 0.667, true})
		}
		fmt.Printf("%sratio to MLflow's server by round %s\n", what, ratio)
		if theirs.Alone > 0 {
			fmt.Printf("%smemory × MLflow's server process alone %.2f\n", what, float64(ours.PSS)/float64(theirs.Alone))
		}
	}
	return goals
}

// start trains the models and brings up `loadline up`.
func (b *bench) start(ctx context.Context) error {
	train := harness.Python(ctx, b.python, "-W", "ignore", "models.py", b.dir, "../test/env/model-requirements.txt")
	if text, err := train.CombinedOutput(); err != nil {
		return fmt.Errorf("models.py: %w:\n%s", err, text)
	}
	port, err := harness.FreePort()
	if err != nil {
		return err
	}
	up, err := harness.Listen(ctx, b.loadline(ctx, "up", "--listen", fmt.Sprintf("127.0.0.1:%d", port)), port, "/readyz", filepath.Join(b.dir, "loadline.log"))
	if err != nil {
		return err
	}
	b.servers = append(b.servers, up)
	b.host = up.URL
	return nil
}

func (b *bench) loadline(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.bin, args...)
	cmd.Env = append(os.Environ(), "LOADLINE_DATA="+filepath.Join(b.dir, "data"), "LOADLINE_HOST="+b.host)
	// Killed, it would leave its replicas to the next start.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd
}

// model brings up both subjects for one model, checks that they answer alike,
// and asks them in turn.
func (b *bench) model(ctx context.Context, name string) ([]row, error) {
	var bodies []string
	data, err := os.ReadFile(filepath.Join(b.dir, name+".bodies.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &bodies); err != nil {
		return nil, err
	}
	ours, err := b.ours(ctx, name)
	if err != nil {
		return nil, err
	}
	reference, server, err := b.mlflow(ctx, name)
	if err != nil {
		return nil, err
	}
	defer reference.Stop()
	theirs := subject{"mlflow", reference.URL + "/invocations", map[string]int{"launcher": reference.PID, "server": server}}
	for _, body := range bodies {
		_, a, err := harness.Ask(ctx, ours.url, body)
		if err != nil {
			return nil, err
		}
		if _, b, err := harness.Ask(ctx, theirs.url, body); err != nil || a != b {
			return nil, fmt.Errorf("answers differ for %s: %s, MLflow's %s (%v)", body, a, b, err)
		}
	}
	floor, err := b.floor(ctx, name)
	if err != nil {
		return nil, err
	}
	defer floor.stop()
	subjects := []subject{ours, theirs}
	var rows []row
	for _, clients := range []int{b.clients, 1, 32} {
		for _, s := range subjects {
			rows = append(rows, row{Model: name, Subject: s.name, Clients: clients, CPU: map[string]series{}})
		}
	}
	bare := row{Model: name, Subject: "bare predict", CPU: map[string]series{}}
	wrapper := row{Model: name, Subject: "the wrapper's predict", CPU: map[string]series{}}
	for range b.rounds {
		for i := range rows {
			if err := b.round(ctx, subjects[i%2], bodies, &rows[i]); err != nil {
				return nil, err
			}
		}
		whole, inner, err := floor.round()
		if err != nil {
			return nil, err
		}
		bare.CPU["whole"], wrapper.CPU["whole"] = append(bare.CPU["whole"], whole), append(wrapper.CPU["whole"], inner)
	}
	if rows[0].PSS, err = pss(ours.pids["agent"], ours.pids["worker"]); err != nil {
		return nil, err
	}
	if rows[1].Alone, err = pss(server); err != nil {
		return nil, err
	}
	rows[1].PSS, err = pss(reference.PID, server)
	return append(rows, bare, wrapper), err
}

// mlflow starts `mlflow models serve` as a user would, in the environment that
// is there. It is two processes: one that reads the command, starts the server
// and waits for it, and the server.
func (b *bench) mlflow(ctx context.Context, name string) (launcher *harness.Server, server int, err error) {
	port, err := harness.FreePort()
	if err != nil {
		return nil, 0, err
	}
	cmd := harness.Python(ctx, b.python, "-m", "mlflow", "models", "serve", "--env-manager", "local",
		"--model-uri", filepath.Join(b.dir, name), "--host", "127.0.0.1", "--port", fmt.Sprint(port))
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(b.python)+":"+os.Getenv("PATH")) // where it finds uvicorn
	launcher, err = harness.Listen(ctx, cmd, port, "/ping", filepath.Join(b.dir, name+"-mlflow.log"))
	if err != nil {
		return nil, 0, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", launcher.PID, launcher.PID))
	children := strings.Fields(string(text))
	if err == nil && len(children) != 1 {
		err = fmt.Errorf("mlflow models serve has %d children where one was expected", len(children))
	}
	if err == nil {
		server, err = strconv.Atoi(children[0])
	}
	if err != nil {
		launcher.Stop()
		return nil, 0, err
	}
	return launcher, server, nil
}

// ours deploys the model and finds the processes that serve it.
func (b *bench) ours(ctx context.Context, name string) (subject, error) {
	if out, err := b.loadline(ctx, "deploy", name, filepath.Join(b.dir, name)).CombinedOutput(); err != nil {
		return subject{}, fmt.Errorf("deploy: %w:\n%s", err, out)
	}
	out, err := b.loadline(ctx, "describe", name, "-o", "json").Output()
	if err != nil {
		return subject{}, fmt.Errorf("describe: %w", err)
	}
	var d struct {
		Entities []struct {
			Replicas []struct {
				PID    int `json:"pid"`
				Engine int `json:"engine_pid"`
			} `json:"replicas"`
		} `json:"entities"`
	}
	if err := json.Unmarshal(out, &d); err != nil {
		return subject{}, fmt.Errorf("describe: %w", err)
	}
	if len(d.Entities) == 0 || len(d.Entities[0].Replicas) == 0 {
		return subject{}, fmt.Errorf("describe shows no replica:\n%s", out)
	}
	r := d.Entities[0].Replicas[0]
	pids := map[string]int{"gateway": b.servers[0].PID, "agent": r.PID, "worker": r.Engine}
	return subject{"loadline", b.host + "/serving-endpoints/" + name + "/invocations", pids}, nil
}

// round asks s for a stretch and adds what it cost to r.
func (b *bench) round(ctx context.Context, s subject, bodies []string, r *row) error {
	before := map[string]time.Duration{}
	for part, pid := range s.pids {
		var err error
		if before[part], err = cpu(pid); err != nil {
			return err
		}
	}
	n, p50, err := b.ask(ctx, s.url, bodies, r.Clients)
	if err != nil {
		return err
	}
	whole := 0.0
	for part, pid := range s.pids {
		after, err := cpu(pid)
		if err != nil {
			return err
		}
		us := float64((after - before[part]).Nanoseconds()) / 1e3 / float64(n)
		r.CPU[part] = append(r.CPU[part], us)
		whole += us
	}
	r.CPU["whole"] = append(r.CPU["whole"], whole)
	r.PerCPUSecond = append(r.PerCPUSecond, 1e6/whole)
	r.P50 = append(r.P50, p50)
	return nil
}

// ask sends requests over as many connections as there are clients, one after
// another on each, and returns how many were answered and the median latency in ms.
func (b *bench) ask(ctx context.Context, url string, bodies []string, n int) (int, float64, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, DisableCompression: true}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var mu sync.Mutex
	var took series
	var failed error
	end := time.Now().Add(b.stretch)
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				body := bodies[int(next.Add(1))%len(bodies)]
				start := time.Now()
				err := post(client, url, body)
				mu.Lock()
				took = append(took, float64(time.Since(start).Microseconds())/1e3)
				if err != nil {
					failed = err
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	clients.Wait()
	return len(took), took.median(), failed
}

func post(client *http.Client, url, body string) error {
	response, err := client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(text))
	}
	return err
}

// A floor is the process that measures the bare predict.
type floor struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func (b *bench) floor(ctx context.Context, name string) (*floor, error) {
	cmd := harness.Python(ctx, b.python, "-W", "ignore", "predict.py", filepath.Join(b.dir, name), filepath.Join(b.dir, name+".bodies.json"))
	// The floor has what our worker has: threads that sleep between calls. With
	// spinning ones it would lie above what stands on it. MLflow's server is
	// started as it comes.
	cmd.Env = append(cmd.Env, "OMP_WAIT_POLICY=PASSIVE")
	return begin(cmd, "predict.py")
}

// begin starts the process of a script, which says when it is ready.
func begin(cmd *exec.Cmd, script string) (*floor, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	f := &floor{cmd, in, bufio.NewScanner(out)}
	if !f.out.Scan() || f.out.Text() != "ready" {
		f.stop()
		return nil, fmt.Errorf("%s did not start", script)
	}
	return f, nil
}

// round returns the CPU microseconds of a whole predict and of the wrapper's.
func (f *floor) round() (whole, wrapper float64, err error) {
	if _, err := fmt.Fprintln(f.in); err != nil {
		return 0, 0, err
	}
	if !f.out.Scan() {
		return 0, 0, fmt.Errorf("predict.py ended")
	}
	_, err = fmt.Sscan(f.out.Text(), &whole, &wrapper)
	return whole, wrapper, err
}

func (f *floor) stop() {
	f.in.Close()
	_ = f.cmd.Wait()
}

func (b *bench) print(rows []row) {
	fmt.Printf("\nOne row a request, %d rounds of %v, interleaved: median (least–most)\n", b.rounds, b.stretch)
	tab := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "MODEL\tSUBJECT\tCONNECTIONS\tCPU µs/request\tgateway\tagent\tworker\trequests/CPU-s\tp50 ms\treplica PSS")
	for _, r := range rows {
		fmt.Fprintf(tab, "%s\t%s\t%d\t%v\t%v\t%v\t%v\t%v\t%v\t%d MiB\n", r.Model, r.Subject, r.Clients, r.CPU["whole"], r.CPU["gateway"], r.CPU["agent"], r.CPU["worker"], r.PerCPUSecond, r.P50, r.PSS>>20)
	}
	tab.Flush()
	fmt.Println()
}
