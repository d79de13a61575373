// Package gateways tests several gateways in front of the same replicas: real
// processes of the built binary, which follow a hub and reach agents that the
// tests are themselves, over TLS. So an agent can say what truly came.
package gateways

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/auth/tokens"
	"loadline.dev/loadline/gateway/feed"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/link/secure"
	"loadline.dev/loadline/serving"
	"loadline.dev/loadline/test/harness"
)

var bin string // the loadline binary

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ll-g-")
	if err == nil {
		bin, err = harness.Binary(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// A house is what gateways follow: a hub, an authority, and agents.
type house struct {
	t         testing.TB
	hub       *feed.Hub
	server    *httptest.Server
	authority *secure.Authority
	book      []tokens.Token
	route     serving.Route
}

// nowhere stands for the gateway that a server has of its own: there is none.
type nowhere struct{}

func (nowhere) Publish(serving.Route)   {}
func (nowhere) Withdraw(string, string) {}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, route: serving.Route{Tenant: auth.Anonymous.Tenant, Endpoint: "iris", ID: "id-1"}}
	var err error
	if h.authority, err = secure.OpenAuthority(filepath.Join(t.TempDir(), "ca.pem"), time.Now()); err != nil {
		t.Fatal(err)
	}
	h.hub = &feed.Hub{Own: nowhere{}, Log: slog.New(slog.DiscardHandler),
		Keys: func() ([]byte, error) { return json.Marshal(h.book) },
		Sign: func(id string, request []byte) ([]byte, error) {
			return h.authority.Sign(secure.Gateway, id, request, time.Now())
		}}
	h.server = httptest.NewServer(&switchable{Handler: h.hub})
	t.Cleanup(func() {
		h.server.CloseClientConnections()
		h.server.Close()
	})
	return h
}

// publish routes everything to the agents.
func (h *house) publish(agents ...*agent) {
	h.route.Generation++
	e := serving.RouteEntity{Name: "iris-1", Percent: 100, Revision: serving.Revision{Endpoint: h.route.ID, Digest: "d"}, Objective: 10 * time.Second}
	for _, a := range agents {
		e.Replicas = append(e.Replicas, serving.Replica{ID: a.id, Revision: e.Revision, State: serving.Ready, Addr: a.addr})
	}
	h.route.Entities = []serving.RouteEntity{e}
	h.hub.Publish(h.route)
}

// An agent is one replica: it counts, and takes its time.
type agent struct {
	id, addr string
	line     int64
	server   *link.Server

	inside, most, served atomic.Int64
	mu                   sync.Mutex
	seen                 map[string]int // by the request's body
}

// agent starts a replica with that load line. A request's body is its number
// and, behind a space, how long it is to take.
func (h *house) agent(id string, line int) *agent {
	h.t.Helper()
	a := &agent{id: id, line: int64(line), seen: map[string]int{}}
	text, _, err := h.authority.Credential(secure.Replica, id, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	i, err := secure.NewIdentity(text)
	if err != nil {
		h.t.Fatal(err)
	}
	l, err := i.Listen("127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	a.addr = l.Addr().String()
	a.server = link.NewServer(a.serve, func(load *link.Load) { load.State = serving.Ready })
	a.server.SetLine(line)
	done := make(chan error, 1)
	go func() { done <- a.server.Serve(l) }()
	h.t.Cleanup(func() {
		a.server.Close()
		<-done
		if most := a.most.Load(); most > a.line {
			h.t.Errorf("replica %s had %d requests at once; its load line is %d", id, most, line)
		}
	})
	return a
}

func (a *agent) serve(ctx context.Context, in *link.Incoming) {
	n := a.inside.Add(1)
	defer a.inside.Add(-1)
	for most := a.most.Load(); n > most && !a.most.CompareAndSwap(most, n); most = a.most.Load() {
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return
	}
	number, took, _ := strings.Cut(string(body), " ")
	pause, _ := time.ParseDuration(took) // none is none
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return
	}
	a.served.Add(1)
	a.mu.Lock()
	a.seen[number]++
	a.mu.Unlock()
	_ = in.Reply(&link.Answer{Status: 200, Size: int64(len(body)), Header: []link.Field{{Name: "Content-Type", Value: "text/plain"}}})
	_, _ = in.Write(body)
}

// A door is one gateway process.
type door struct {
	t    testing.TB
	url  string
	cmd  *exec.Cmd
	gone chan struct{}
	log  string
}

// gateway starts one and waits until it is ready.
func (h *house) gateway(args ...string) *door {
	h.t.Helper()
	port, err := harness.FreePort()
	if err != nil {
		h.t.Fatal(err)
	}
	d := &door{t: h.t, url: "http://127.0.0.1:" + strconv.Itoa(port), gone: make(chan struct{}), log: filepath.Join(h.t.TempDir(), "log")}
	d.cmd = exec.Command(bin, append([]string{"gateway", "--server", h.server.URL, "--listen", strings.TrimPrefix(d.url, "http://")}, args...)...)
	log, err := os.Create(d.log)
	if err != nil {
		h.t.Fatal(err)
	}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.Env = append(os.Environ(), "LOADLINE_DATA="+h.t.TempDir(), "LOADLINE_TOKEN=")
	if err := d.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	log.Close()
	go func() { _ = d.cmd.Wait(); close(d.gone) }()
	h.t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		<-d.gone
		if h.t.Failed() {
			h.t.Logf("%s:\n%s", d.url, harness.Tail(d.log))
		}
	})
	d.eventually("ready", func() bool {
		status, _, err := d.get("/readyz")
		return err == nil && status == 200
	})
	return d
}

func (h *house) gateways(n int) []*door {
	h.t.Helper()
	var list []*door
	for range n {
		list = append(list, h.gateway())
	}
	return list
}

func (d *door) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// eventually waits for something that takes as long as it takes.
func (d *door) eventually(what string, is func() bool) {
	d.t.Helper()
	if err := harness.Eventually(d.t.Context(), 30*time.Second, func() error {
		if !is() {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		d.t.Fatalf("%s is not %s; its log:\n%s", d.url, what, harness.Tail(d.log))
	}
}

func (d *door) get(path string) (int, string, error) {
	answer, err := http.Get(d.url + path)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

const invocations = "/serving-endpoints/iris/invocations"

// client keeps connections open, as clients do, and never sends twice.
func client() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext}}
}

// ask sends one request, whose body net/http cannot send again by itself.
func ask(ctx context.Context, c *http.Client, url, body string) (status int, text string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+invocations, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		return 0, "", err
	}
	r.ContentLength = int64(len(body))
	answer, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(all), err
}
