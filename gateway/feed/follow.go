package feed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/serving"
)

const (
	silence   = 10 * time.Second // after which a hub that says nothing is gone
	retry     = 200 * time.Millisecond
	retryLast = 2 * time.Second
	askFor    = 10 * time.Second // a short answer
	maxLine   = 16 << 20
)

// A Follower keeps a gateway as its hub says. Its fields are set before Run.
type Follower struct {
	Server string // URL of whoever serves the hub
	Token  string
	Client *http.Client // without a time limit of its own
	Self   Member

	Router   Router
	Keys     func([]byte) error // told by what callers are judged
	Gateways func([]Member)     // told which gateways there are

	Log *slog.Logger

	synced chan struct{}
	number atomic.Uint64 // of the last news that were taken in
	routes map[name]bool // what the router knows; Run's own
	was    bool          // synced before
}

// NewFollower returns one whose fields are yet to be set.
func NewFollower() *Follower {
	return &Follower{synced: make(chan struct{}), routes: map[name]bool{}}
}

// Synced is closed once everything was heard for the first time.
func (f *Follower) Synced() <-chan struct{} { return f.synced }

// Run follows until ctx ends, and returns nil then. A hub that cannot be reached
// is asked again for ever; one that refuses us from the beginning is an error.
func (f *Follower) Run(ctx context.Context) error {
	pause, said := retry, ""
	for {
		began := time.Now()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		if kind := serving.KindOf(err); !f.was && (kind == serving.Denied || kind == serving.NotFound) {
			return err
		}
		if err.Error() != said {
			f.Log.Warn("no news of the server; what is known is served", "why", err)
			said = err.Error()
		}
		if time.Since(began) > time.Second {
			pause = retry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
			pause = min(2*pause, retryLast)
		}
	}
}

// follow takes in the news of one connection.
func (f *Follower) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("it said nothing for %v", silence)) })
	defer quiet.Stop()
	r, err := f.request(ctx, http.MethodGet, "/feed?addr="+url.QueryEscape(f.Self.Addr), nil)
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	defer r.Body.Close()
	bell, over := make(chan struct{}, 1), make(chan struct{})
	defer func() { <-over }()
	defer cancel(nil)
	go func() {
		defer close(over)
		f.say(ctx, bell)
	}()
	f.number.Store(0) // another hub counts anew
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, maxLine)
	heard := map[name]bool{}
	for lines.Scan() {
		quiet.Reset(silence)
		var n news
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			return fmt.Errorf("news that are none: %w", err)
		}
		if err := f.take(&n, heard); err != nil {
			return err
		}
		if n.Number > 0 && f.number.Swap(n.Number) != n.Number {
			ring(bell)
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("the server ended the feed")
}

// take does what one line says. heard is what this connection has told of.
func (f *Follower) take(n *news, heard map[name]bool) error {
	switch {
	case n.Route != nil:
		key := name{n.Route.Tenant, n.Route.Endpoint}
		heard[key], f.routes[key] = true, true
		f.Router.Publish(*n.Route)
	case n.Gone != nil:
		delete(heard, *n.Gone)
		delete(f.routes, *n.Gone)
		f.Router.Withdraw(n.Gone.Tenant, n.Gone.Endpoint)
	case n.Keys != nil:
		return f.Keys(n.Keys)
	case n.Gateways != nil:
		f.Gateways(n.Gateways)
	case n.Synced:
		for key := range f.routes {
			if !heard[key] {
				delete(f.routes, key)
				f.Router.Withdraw(key.Tenant, key.Endpoint)
			}
		}
		if !f.was {
			f.was = true
			close(f.synced)
		}
	}
	return nil
}

// say tells the hub what is served, whenever that has changed, and each second
// what the gateway did.
func (f *Follower) say(ctx context.Context, bell <-chan struct{}) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-bell:
		case <-tick.C:
		}
		said := served{Number: f.number.Load()}
		if own, ok := f.Router.(Reporter); ok {
			said.Reports = own.Reports(nil)
		}
		body, err := json.Marshal(said)
		if err != nil {
			f.Log.Error("reports", "why", err)
			continue
		}
		if _, err := f.post(ctx, "/served", body); err != nil && ctx.Err() == nil {
			f.Log.Debug("the server does not hear what is served", "why", err)
		}
	}
}

// Leave says that nothing new is taken here from now on.
func (f *Follower) Leave(ctx context.Context) error {
	_, err := f.post(ctx, "/leaving", nil)
	return err
}

// Certificate has a request for a certificate answered.
func (f *Follower) Certificate(ctx context.Context, request []byte) ([]byte, error) {
	return f.post(ctx, "/certificate", request)
}

func (f *Follower) post(ctx context.Context, what string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	r, err := f.request(ctx, http.MethodPost, what, body)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	return io.ReadAll(io.LimitReader(r.Body, maxBody))
}

// request sends a request and makes anything but 200 an error.
func (f *Follower) request(ctx context.Context, method, what string, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, f.Server+Path+"/"+f.Self.ID+what, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if f.Token != "" {
		r.Header.Set("Authorization", "Bearer "+f.Token)
	}
	answer, err := f.Client.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	why, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	e := &serving.Error{Op: "follow " + f.Server, Kind: serving.Unavailable, Err: fmt.Errorf("%s: %s", answer.Status, bytes.TrimSpace(why))}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind, e.Fix = serving.Denied, "loadline token create gateway --scope admin, on the server; then LOADLINE_TOKEN here"
	case http.StatusNotFound:
		e.Kind, e.Fix = serving.NotFound, "--server must name a loadline up of this version"
	}
	return nil, e
}
