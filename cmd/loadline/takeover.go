package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/internal/handover"
)

// How a server is replaced by the next: the newer asks for the listening socket,
// and the older gives up the data folder before it hands the socket over. Both
// carry requests until the newer is known to; then the older finishes what it has.

const (
	takeOverIn = 2 * time.Minute // the newer, from when the data folder is free until it serves
	linkedIn   = 2 * time.Second // its gateway, with the replicas that run
	partAfter  = 3 * time.Second // idle connections of the older end
	partIn     = 5 * time.Minute // the older, whatever is under way
	apiEndsIn  = 2 * time.Second // requests to the API, before the store is closed under them
)

func handoverPath(data string) string { return filepath.Join(data, "takeover.sock") }

// inherit takes the listener over from the server on the data folder; nil if
// there is none.
func inherit(data, addr string) (*handover.Legacy, error) {
	return handover.Ask(handoverPath(data), func(theirs string) error {
		if sameAddress(addr, theirs) {
			return nil
		}
		return &fault{exit: exitUsage, what: "the server there listens on " + theirs + ", not on " + addr, fix: "--listen " + theirs}
	})
}

func sameAddress(a, b string) bool {
	x, err1 := net.ResolveTCPAddr("tcp", a)
	y, err2 := net.ResolveTCPAddr("tcp", b)
	if err1 != nil || err2 != nil || x.Port != y.Port {
		return false
	}
	return x.IP.Equal(y.IP) || (len(x.IP) == 0 || x.IP.IsUnspecified()) && (len(y.IP) == 0 || y.IP.IsUnspecified())
}

// A helm is what only one process on a data folder may hold: control, and the
// stores that it writes. It is given up once, while requests go on.
type helm struct {
	cease context.CancelFunc // ends what runs below hands
	hands sync.WaitGroup

	closing sync.Once
	left    atomic.Bool  // for another process
	visitor atomic.Int64 // requests to the API that run
}

// guard keeps requests from an API whose store is gone.
func (h *helm) guard(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.visitor.Add(1)
		defer h.visitor.Add(-1)
		if h.left.Load() && r.URL.Path != "/livez" && r.URL.Path != "/metrics" {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Connection", "close") // the next one may reach the newer server
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, `{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "another process takes this server over; ask again"}`)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// leave gives the helm up, with everything that the next process needs.
func (s *server) leave() error {
	s.helm.left.Store(true)
	s.helm.cease()
	s.helm.hands.Wait()
	for until := time.Now().Add(apiEndsIn); s.helm.visitor.Load() > 0 && time.Now().Before(until); {
		time.Sleep(5 * time.Millisecond)
	}
	return s.closeHelm()
}

// offer lets another process take over. It returns when one has, with true, or
// when ctx ends.
func (s *server) offer(ctx context.Context, l net.Listener) bool {
	s.serving()
	o := &handover.Offer{Path: handoverPath(s.state), Listener: l.(*net.TCPListener), Waits: takeOverIn, Release: s.leave,
		Failed: func(err error) {
			if s.helm.left.Load() {
				s.log.Error("the process that took over has failed; requests are carried on, and nothing else is done until another is started: loadline up --takeover", "why", err)
				return
			}
			s.log.Warn("somebody asked to take over, and did not", "why", err)
		}}
	if err := o.Listen(); err != nil {
		s.log.Warn("this server cannot be taken over", "why", err)
		return false
	}
	return o.Serve(ctx) == nil
}

// serving tells the process before that it may stop accepting.
func (s *server) serving() {
	if s.legacy == nil {
		return
	}
	if err := s.legacy.Serving(); err != nil {
		s.log.Warn("the process before does not hear that this one serves", "why", err)
	}
}

// ready waits until requests can be carried without a wait for links.
func (s *server) ready(ctx context.Context) {
	until := time.Now().Add(linkedIn)
	for !s.gateway.Linked() && time.Now().Before(until) && ctx.Err() == nil {
		time.Sleep(2 * time.Millisecond)
	}
}

// part finishes what is under way and ends. Replicas are another's now.
func (s *server) part(ctx context.Context) {
	s.log.Info("another process serves now; this one finishes what it has")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), partIn)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainFor, cancel) })()
	if late := s.gateway.DrainAfter(drain, partAfter); late != nil {
		s.log.Warn("drain", "why", "some requests did not end in time")
	}
}
