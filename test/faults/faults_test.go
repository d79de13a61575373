// Package faults does to the real product what bad models, broken engines and
// a hostile machine do: the built binary, real agents, models saved by MLflow,
// engines of a few lines of Python. Each test says what must still be true,
// and that neither the server nor another endpoint noticed.
package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// What all tests share: made once by TestMain.
var (
	bin    string // the loadline binary
	models string // folder of the models that save.py saved; empty without LOADLINE_TEST_PYTHON
	shared *house // with the endpoints witness, puppet, brute
)

// deadline is that of requests to the shared server: short, so that hangs do not
// take long, and long enough for what is slow on a machine with other work.
const deadline = 10 * time.Second

const brute = "exec /usr/bin/python3 -B $MODEL_DIR/brute.py"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(asEngine) != "" {
		beEngine()
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "ll-f-")
	if err == nil {
		defer os.RemoveAll(dir)
		bin, err = harness.Binary(dir)
	}
	if err == nil {
		err = save(ctx, dir)
	}
	if err == nil && models != "" {
		err = furnish(ctx)
		defer shared.leave()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// bombed is a file that the bomb would write.
var bombed = filepath.Join(os.TempDir(), fmt.Sprintf("ll-bombed-%d", os.Getpid()))

func save(ctx context.Context, dir string) error {
	python := os.Getenv("LOADLINE_TEST_PYTHON")
	if python == "" {
		return nil
	}
	to := filepath.Join(dir, "models")
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	requirements, err := filepath.Abs("../env/model-requirements.txt")
	if err != nil {
		return err
	}
	cmd := harness.Python(ctx, python, "-B", "-W", "ignore", "testdata/save.py", to, requirements, bombed)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("save models: %w\n%s", err, out)
	}
	models = to
	return nil
}

// furnish starts the server that most tests share.
func furnish(ctx context.Context) (err error) {
	shared, err = newHouse(ctx)
	if err != nil {
		return err
	}
	shared.args = []string{"--request-timeout", deadline.String(), "--start-timeout", "40s", "--memory", "1500M"}
	if err := shared.up(); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"witness", model("brute"), "--command", brute, "--health", "/"},
		{"brute", model("brute"), "--command", brute, "--health", "/"},
		{"puppet", model("puppet")},
	} {
		if said := shared.run(append([]string{"deploy"}, args...)...); said.code != 0 {
			return fmt.Errorf("deploy %s: exit code %d\n%s%s", args[0], said.code, said.out, shared.lastWords())
		}
	}
	return nil
}

func model(name string) string { return filepath.Join(models, name) }

// need skips what this machine cannot do, except where everything must be done.
func need(t *testing.T) {
	t.Helper()
	if models != "" {
		return
	}
	if os.Getenv("CI") == "true" || os.Getenv("LOADLINE_TEST_FULL") == "1" {
		t.Fatal("LOADLINE_TEST_PYTHON is missing")
	}
	t.Skip("LOADLINE_TEST_PYTHON is missing")
}

// An order is what a puppet or a brute is asked to do: an act of acts.py.
type order map[string]any

func (o order) text() string {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // orders are plain maps
	}
	return string(text)
}
