package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/auth/tokens"
	"loadline.dev/loadline/autopilot/cockpit"
	"loadline.dev/loadline/control"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/internal/handover"
	"loadline.dev/loadline/model"
	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/platform/local"
	"loadline.dev/loadline/rest"
	"loadline.dev/loadline/serving"
)

// A plan is what a server is asked to be.
type plan struct {
	data    string // models, environments, tools: what may be shared
	state   string // wishes and replicas: what belongs to this server
	root    string // endpoint answered at the root, too; empty is none
	fresh   bool   // forget the wishes of an earlier server
	sandbox bool
	limits  serving.Limits // of every replica
	uv      string

	certificate *gateway.Certificate // nil: no TLS
	clear       bool                 // lets other machines in without it
	secured     bool                 // new replicas are reached over TLS

	// Another process may take over (up); and from whom this one does, nil being nobody.
	replaceable bool
	legacy      *handover.Legacy

	log *slog.Logger
}

// A server is the whole product in one process: gateway, API, control, and the
// platform that starts agents.
type server struct {
	plan
	lock     *local.Lock
	store    *local.Store // wishes, events, tokens
	cache    *local.Store // pins and recipes, for every server on the data folder
	platform *local.Platform
	keeper   *control.Keeper
	desk     *control.Desk
	gateway  *gateway.Gateway
	cockpit  *cockpit.Cockpit
	tokens   *tokens.Book
	metrics  *prometheus.Registry
	ring     *ring
	hub      *hub // tells gateways in processes of their own
	loopback bool
	helm     helm
}

// newServer puts the rooms together. Close ends what it began.
func newServer(ctx context.Context, p plan, loopback bool) (s *server, err error) {
	s = &server{plan: p, loopback: loopback, metrics: prometheus.NewRegistry()}
	if s.lock, err = local.LockData(p.state); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if p.fresh {
		forget(p.state)
	}
	if s.cache, err = local.OpenStore(ctx, filepath.Join(p.data, "cache.db")); err != nil {
		return s, err
	}
	if s.store, err = local.OpenStore(ctx, filepath.Join(p.state, "loadline.db")); err != nil {
		return s, err
	}
	if s.tokens, err = tokens.Open(ctx, s.store.Drawer("tokens"), filepath.Join(p.data, "token"), time.Now); err != nil {
		return s, err
	}
	if s.ring, err = openRing(p.state, ownID); err != nil {
		return s, err
	}
	if s.platform, err = s.newPlatform(); err != nil {
		return s, err
	}
	preparer, err := s.newPreparer(ctx)
	if err != nil {
		return s, err
	}
	s.cockpit = s.newCockpit() // before the API, which asks it
	s.gateway = gateway.New(gateway.Config{
		Judge: s.judge, API: s.helm.guard(s.probes(s.api())), Root: p.root, Log: p.log, Metrics: s.metrics,
		TLS: s.encryption(), Clear: p.clear, Wake: s.cockpit.Woken,
		Dial: s.ring.dial, DialPeer: s.ring.dialPeer,
	})
	s.hub.Own = s.gateway
	s.keeper = control.New(control.Parts{
		Store: s.store, Platform: s.platform, Preparer: preparer, Router: s.hub,
		Sizer: s.cockpit, Drawer: s.store.Drawer("control"), Log: p.log, Metrics: control.NewMetrics(s.metrics), Sandbox: p.sandbox,
	})
	s.cockpit.Gateway, s.cockpit.Keeper = allGateways{s.gateway, s.hub}, s.keeper
	s.desk.Store, s.desk.Keeper = s.store, s.keeper
	s.desk.Output, s.desk.Builds = s.platform, preparer
	return s, nil
}

// forget removes the wishes of a server that was killed; its replicas are then
// nobody's, and the platform ends them.
func forget(state string) {
	old, _ := filepath.Glob(filepath.Join(state, "loadline.db*"))
	for _, path := range old {
		_ = os.Remove(path) // what stays is served beside the new
	}
}

// judge asks auth about a caller.
func (s *server) judge(c *gateway.Caller) auth.Verdict {
	who, known := auth.Principal{}, false
	if c.Token != "" {
		who, known = s.tokens.Find(c.Token)
	}
	return auth.Door{Loopback: s.loopback}.Judge(auth.Visit{
		Method: c.Method, Path: c.Path, Host: c.Host, Origin: c.Origin, FetchSite: c.FetchSite,
		Token: c.Token != "", Known: known, Caller: who,
	})
}

// api is what the gateway hands on to.
func (s *server) api() http.Handler {
	s.desk = &control.Desk{}
	return s.fleet(rest.New(rest.Config{
		Desk: front{s.desk}, Pilot: s.cockpit, Tokens: book{s.tokens, s.rekey}, Log: s.log, Who: gateway.Who, Model: readModel,
		CheckModel: func(m string) error { _, err := model.Parse(m); return err },
		Named:      func(command string) []string { return named(command, s.data) },
		Loopback:   s.loopback, Workspace: workspace(s.data), Version: version(),
	}))
}

// front is control's desk as rest wants it.
type front struct{ *control.Desk }

// Logs implements [rest.Desk].
func (f front) Logs(ctx context.Context, tenant, name string, q rest.LogQuery) (io.ReadCloser, error) {
	return f.Desk.Logs(ctx, tenant, name, control.LogQuery{Entity: q.Entity, Replica: q.Replica, Follow: q.Follow})
}

// book is the book of tokens as rest wants it.
type book struct {
	*tokens.Book
	changed func()
}

// Create implements [rest.Tokens].
func (b book) Create(ctx context.Context, name string, scope auth.Scope, life time.Duration) (string, rest.Token, error) {
	text, t, err := b.Book.Create(ctx, name, scope, life)
	b.changed()
	return text, told(t), err
}

// Revoke implements [rest.Tokens].
func (b book) Revoke(ctx context.Context, id string) error {
	defer b.changed()
	return b.Book.Revoke(ctx, id)
}

// List implements [rest.Tokens].
func (b book) List() []rest.Token {
	var list []rest.Token
	for _, t := range b.Book.List() {
		list = append(list, told(t))
	}
	return list
}

func told(t tokens.Token) rest.Token {
	return rest.Token{ID: t.ID, Name: t.Name, Scope: t.Scope, Created: t.Created, Expires: t.Expires}
}

func readModel(r serving.Recipe) (mlmodel.Model, error) {
	data, err := os.ReadFile(filepath.Join(r.Model.Dir, "MLmodel"))
	if err != nil {
		return mlmodel.Model{}, err
	}
	return mlmodel.Parse(data)
}

// run serves until ctx ends, then drains and stops, replicas included: the
// next start finds the wishes and starts them again. If another process takes
// over before, it only finishes what is under way.
func (s *server) run(ctx context.Context, l net.Listener) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	if err := s.keeper.Introduce(life); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	var parts sync.WaitGroup
	failed := make(chan error, 3)
	s.takeHelm(life, failed)
	if s.legacy != nil {
		s.ready(ctx)
	}
	parts.Go(func() {
		if err := s.gateway.Serve(life, l); err != nil {
			failed <- fmt.Errorf("gateway: %w", err)
		}
	})
	parts.Go(func() { s.hub.Deal(life, s.gateway) })
	taken := make(chan struct{})
	if s.replaceable {
		parts.Go(func() {
			if s.offer(life, l) {
				close(taken)
			}
		})
	}
	var err error
	select {
	case <-taken:
		s.part(ctx)
	case err = <-failed:
		s.drain(ctx)
	case <-ctx.Done():
		s.drain(ctx)
	}
	end()
	parts.Wait()
	s.helm.hands.Wait()
	if !s.helm.left.Load() {
		s.platform.Stop(stopFor)
	}
	return err
}

// takeHelm starts what runs until the helm is left.
func (s *server) takeHelm(life context.Context, failed chan<- error) {
	command, cease := context.WithCancel(life)
	s.helm.cease = cease
	for name, run := range map[string]func(context.Context) error{"control": s.keeper.Run, "autopilot": s.cockpit.Run} {
		s.helm.hands.Go(func() {
			if err := run(command); err != nil && command.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
}

func (s *server) drain(ctx context.Context) {
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer cancel()
	if late := s.gateway.Drain(drain); late != nil {
		s.log.Warn("drain", "why", "some requests did not end in time")
	}
}

// How long requests in flight may take once the server is asked to stop, and
// replicas to end after them.
const (
	drainFor = 30 * time.Second
	stopFor  = 10 * time.Second
)
