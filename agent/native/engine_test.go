package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/test/harness"
)

// reserves counts and answers what the engine under test passes on.
type reserves struct {
	made, stopped, asked atomic.Int64
	fail                 error         // of Start
	gone                 chan struct{} // closed to have it die
}

// A stand is one run of it.
type stand struct {
	of    *reserves
	done  chan struct{}
	ended atomic.Bool
}

func (r *reserves) make() agent.Engine {
	r.made.Add(1)
	done := r.gone
	if done == nil {
		done = make(chan struct{})
	}
	return &stand{of: r, done: done}
}

func (s *stand) Start(context.Context) error { return s.of.fail }
func (s *stand) Done() <-chan struct{}       { return s.done }
func (s *stand) PID() int                    { return 1 }
func (s *stand) Stop(time.Duration) {
	if s.ended.CompareAndSwap(false, true) {
		s.of.stopped.Add(1)
	}
}

func (s *stand) Do(_ context.Context, r *agent.Request, w agent.Answerer) error {
	s.of.asked.Add(1)
	select {
	case <-s.done:
		return agent.ErrEngineGone
	default:
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	return answer(w, 200, jsonHead, []byte(fmt.Sprintf("reserve: %d bytes of %s", len(body), r.ContentType)))
}

// An answered collects an answer.
type answered struct {
	status int
	body   bytes.Buffer
}

func (a *answered) Head(status int, _ []link.Field, _ int64) error { a.status = status; return nil }
func (a *answered) Write(p []byte) (int, error)                    { return a.body.Write(p) }
func (a *answered) Flush() error                                   { return nil }

func ask(t testing.TB, e *Engine, contentType, body string) string {
	t.Helper()
	var a answered
	err := e.Do(t.Context(), &agent.Request{Method: "POST", Path: "/invocations?x=1", ContentType: contentType,
		Body: strings.NewReader(body), Size: int64(len(body))}, &a)
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%d %s", a.status, a.body.String())
}

// mixed is a model of a column of text and one of numbers.
func mixed(t testing.TB) serving.Native {
	t.Helper()
	env := harness.Needed(t, "LOADLINE_TEST_TOOLS")
	found, err := filepath.Glob(filepath.Join(env, "lib", "python3*", "site-packages", "onnxruntime", "capi", "libonnxruntime.so.*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no ONNX Runtime in %s: %v", env, err)
	}
	return serving.Native{
		Library: found[0], Model: "testdata/mixed.onnx", MLflow: "3.17.2",
		Schema: `[{"type":"double","name":"n","required":true},{"type":"string","name":"city","required":true}]`,
		Inputs: []serving.NativeInput{{Name: "city", Kind: "s", Columns: []string{"city"}}, {Name: "n", Kind: "d", Columns: []string{"n"}}},
		Answer: serving.NativeAnswer{Output: "score", Kind: "d"},
		Guards: []serving.NativeGuard{{Column: "city", Known: []string{"Oslo", "Rome"}}},
	}
}

func started(t testing.TB, n serving.Native, r *reserves) *Engine {
	t.Helper()
	e := New(Config{Native: n, Reserve: r.make, MaxBody: 1000})
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Stop(0) })
	return e
}

func TestWhatWasShownToBeEqualIsAnsweredHere(t *testing.T) {
	var r reserves
	e := started(t, mixed(t), &r)
	for body, want := range map[string]string{
		`{"dataframe_split":{"columns":["city","n"],"data":[["Oslo",1.5],["Rome",-1]]}}`: `200 {"predictions": [2.5, 1.0]}`,
		`{"dataframe_records":[{"n":1e16,"city":"Oslo"}]}`:                               `200 {"predictions": [1e+16]}`,
		`{"inputs":{"n":0.25,"city":"Rome"}}`:                                            `200 {"predictions": [2.25]}`,
	} {
		if got := ask(t, e, "application/json", body); got != want {
			t.Errorf("%s: got %s, want %s", body, got, want)
		}
	}
	if here, passed := e.Crossed(); here != 3 || passed != 0 || r.made.Load() != 0 {
		t.Errorf("%d answered here, %d passed, %d reserves", here, passed, r.made.Load())
	}
}

func TestEverythingElseGoesToTheReserve(t *testing.T) {
	var r reserves
	e := started(t, mixed(t), &r)
	long := `{"inputs":{"n":1,"city":"Oslo"}}` + strings.Repeat(" ", 2000)
	asked := int64(0)
	for name, c := range map[string][2]string{
		"a text that was not compared": {"application/json", `{"inputs":{"n":1,"city":"Paris"}}`},
		"a text that is missing":       {"application/json", `{"inputs":{"n":1,"city":null}}`},
		"a number that is missing":     {"application/json", `{"inputs":{"n":null,"city":"Oslo"}}`},
		"a number beyond float32":      {"application/json", `{"inputs":{"n":1e39,"city":"Oslo"}}`},
		"a number as text":             {"application/json", `{"inputs":{"n":"1","city":"Oslo"}}`},
		"a column that is missing":     {"application/json", `{"inputs":{"n":1}}`},
		"no JSON":                      {"application/json", `{`},
		"CSV":                          {"text/csv", "n,city\n1,Oslo\n"},
		"no type":                      {"", `{"inputs":{"n":1,"city":"Oslo"}}`},
		"a body that is too long":      {"application/json", long},
		"no rows":                      {"application/json", `{"dataframe_split":{"columns":["city","n"],"data":[]}}`},
	} {
		asked++
		if got, want := ask(t, e, c[0], c[1]), fmt.Sprintf("200 reserve: %d bytes of %s", len(c[1]), c[0]); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	if here, passed := e.Crossed(); here != 0 || int64(passed) != asked || r.made.Load() != 1 || r.asked.Load() != asked {
		t.Errorf("%d answered here, %d passed, %d reserves were asked %d times", here, passed, r.made.Load(), r.asked.Load())
	}
}

// A packed body, and one that is strict's to judge, are the reserve's too.
func TestStrictAndPackedBodiesGoToTheReserve(t *testing.T) {
	var r reserves
	e := New(Config{Native: mixed(t), Reserve: r.make, Strict: true})
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer e.Stop(0)
	if got := ask(t, e, "application/json", `{"inputs":{"n":1,"city":"Oslo"},"extra":1}`); !strings.HasPrefix(got, "200 {") {
		t.Errorf("got %s", got)
	}
	if got := ask(t, e, "application/json", `{"inputs":{"n":1,"city":"Oslo","z":1}}`); !strings.HasPrefix(got, "200 reserve") {
		t.Errorf("got %s", got)
	}
	var a answered
	err := e.Do(t.Context(), &agent.Request{Method: "POST", Path: "/invocations", ContentType: "application/json",
		ContentEncoding: "gzip", Body: strings.NewReader("x"), Size: 1}, &a)
	if err != nil || !strings.HasPrefix(a.body.String(), "reserve") {
		t.Errorf("got %s, %v", a.body.String(), err)
	}
}

func TestOtherRoutesAreMLflows(t *testing.T) {
	var r reserves
	e := started(t, mixed(t), &r)
	for call, want := range map[string]string{
		"GET /ping": "200 \n", "GET /health": "200 \n", "GET /version": "200 3.17.2", "POST /ping": `405 {"detail":"Method Not Allowed"}`,
		"GET /invocations": `405 {"detail":"Method Not Allowed"}`, "GET /other": `404 {"detail":"Not Found"}`,
	} {
		method, path, _ := strings.Cut(call, " ")
		var a answered
		if err := e.Do(t.Context(), &agent.Request{Method: method, Path: path, Body: strings.NewReader("")}, &a); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d %s", a.status, a.body.String()); got != want {
			t.Errorf("%s: got %q, want %q", call, got, want)
		}
	}
	if r.made.Load() != 0 {
		t.Error("Python was started for it")
	}
}

func TestPlansThatDoNotFitAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*serving.Native)
		want   string
	}{
		"no file":            {func(n *serving.Native) { n.Model = "testdata/none.onnx" }, "no such file"},
		"another input":      {func(n *serving.Native) { n.Inputs[0].Name = "town" }, `"town"`},
		"another kind":       {func(n *serving.Native) { n.Inputs[1].Kind = "f" }, "of kind"},
		"too few inputs":     {func(n *serving.Native) { n.Inputs = n.Inputs[:1] }, "has 2 inputs"},
		"another output":     {func(n *serving.Native) { n.Answer.Output = "label" }, `no output "label"`},
		"an input of nobody": {func(n *serving.Native) { n.Inputs[0].Columns = nil }, "of kind"},
	} {
		n := mixed(t)
		c.change(&n)
		err := New(Config{Native: n}).Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, serving.Invalid) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// The reserve lives while it is needed, and is made anew when it is needed again.
func TestReserveLivesWhileItIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all reserves
		r := &reserve{make: all.make, idle: time.Minute}
		use := func(d time.Duration) {
			_, giveBack, err := r.lend(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(d)
			giveBack()
		}
		use(5 * time.Minute) // longer than it may be idle
		time.Sleep(50 * time.Second)
		use(0)
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if all.made.Load() != 1 || all.stopped.Load() != 0 {
			t.Errorf("%d made, %d stopped", all.made.Load(), all.stopped.Load())
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if all.stopped.Load() != 1 {
			t.Error("it outlived its use")
		}
		use(0)
		if all.made.Load() != 2 {
			t.Error("it was not made again")
		}
		r.stop(0)
		if _, _, err := r.lend(t.Context()); !errors.Is(err, agent.ErrEngineGone) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestReserveThatDoesNotStartIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := reserves{fail: errors.New("no such module")}
		r := &reserve{make: all.make, idle: time.Minute}
		for range 5 {
			if _, _, err := r.lend(t.Context()); err == nil || !strings.Contains(err.Error(), "needs it: no such module") {
				t.Errorf("got %v", err)
			}
		}
		if all.made.Load() != 1 {
			t.Errorf("started %d times at once", all.made.Load())
		}
		time.Sleep(patience)
		all.fail = nil
		if _, giveBack, err := r.lend(t.Context()); err != nil {
			t.Errorf("later: %v", err)
		} else {
			giveBack()
		}
		r.stop(0)
	})
}

// A reserve that died takes neither this engine along nor the request's chance
// to be asked again.
func TestReserveMayDie(t *testing.T) {
	r := reserves{gone: make(chan struct{})}
	close(r.gone)
	e := started(t, mixed(t), &r)
	got := ask(t, e, "text/csv", "x")
	if !strings.HasPrefix(got, "error: ") || strings.Contains(got, agent.ErrEngineGone.Error()) {
		t.Errorf("got %s", got)
	}
	r.gone = nil
	if got = ask(t, e, "text/csv", "x"); !strings.HasPrefix(got, "200 reserve") {
		t.Errorf("got %s", got)
	}
}

func TestStoppedEngineTakesNothing(t *testing.T) {
	var r reserves
	e := started(t, mixed(t), &r)
	ask(t, e, "text/csv", "x")
	e.Stop(time.Second)
	e.Stop(0)
	<-e.Done()
	if got := ask(t, e, "application/json", `{"inputs":{"n":1,"city":"Oslo"}}`); got != "error: "+agent.ErrEngineGone.Error() {
		t.Errorf("got %s", got)
	}
	if e.PID() != 0 || r.stopped.Load() != 1 {
		t.Errorf("pid %d, %d reserves stopped", e.PID(), r.stopped.Load())
	}
}

func BenchmarkOneRow(b *testing.B) {
	var r reserves
	e := started(b, mixed(b), &r)
	body := []byte(`{"dataframe_split":{"columns":["city","n"],"data":[["Oslo",1.5]]}}`)
	b.ReportAllocs()
	for b.Loop() {
		var a answered
		err := e.Do(b.Context(), &agent.Request{Method: "POST", Path: "/invocations", ContentType: "application/json",
			Body: bytes.NewReader(body), Size: int64(len(body))}, &a)
		if err != nil {
			b.Fatal(err)
		}
	}
}
