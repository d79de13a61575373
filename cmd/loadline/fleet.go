package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/gateway/feed"
	"loadline.dev/loadline/link/secure"
)

// A hub tells gateways in processes of their own what they need to know.
type hub = feed.Hub

// fleet answers gateways in processes of their own; the rest is the API's. Only
// holders of a token of scope admin get here: see auth.Need.
func (s *server) fleet(api http.Handler) http.Handler {
	s.hub = &feed.Hub{
		Log:  s.log,
		Keys: func() ([]byte, error) { return json.Marshal(s.tokens.Share()) },
		Sign: func(id string, request []byte) ([]byte, error) {
			return s.ring.authority.Sign(secure.Gateway, id, request, time.Now())
		},
	}
	own := &station{s: s}
	s.hub.Self = own.member
	s.hub.Changed = func(all []feed.Member) { s.gateway.Join(ownID, peers(all)) }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, feed.Path); ok && (rest == "" || rest[0] == '/') {
			s.hub.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// rekey tells the other gateways of tokens that were made or revoked.
func (s *server) rekey() {
	if err := s.hub.Rekey(); err != nil {
		s.log.Error("gateways are not told of changed tokens", "why", err)
	}
}

// ownID is what the gateway of this process is called among others.
const ownID = "local"

// A station is where the others reach the gateway of this process. It is opened
// for the first of them: a server that is alone listens on one port only.
type station struct {
	s    *server
	once sync.Once
	addr string
}

func (t *station) member() feed.Member {
	t.once.Do(func() {
		if err := t.open(); err != nil {
			t.s.log.Error("other gateways cannot pass requests on to this one", "why", err)
		}
	})
	return feed.Member{ID: ownID, Addr: t.addr}
}

func (t *station) open() error {
	i, err := t.s.ring.identity(time.Now())
	if err != nil {
		return err
	}
	l, err := i.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	t.addr = l.Addr().String()
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := t.s.gateway.ServePeers(l); err != nil {
			t.s.log.Error("links of other gateways", "why", err)
		}
	}()
	go func() {
		tick := time.NewTicker(time.Hour)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case now := <-tick.C:
				if _, err := t.s.ring.identity(now); err != nil {
					t.s.log.Error("the link's certificate is not renewed", "why", err)
				}
			}
		}
	}()
	return nil
}

// allGateways is what the autopilot hears of: this process's gateway, which is
// linked to every replica, sets their lines; what all see counts.
type allGateways struct {
	*gateway.Gateway
	hub *hub
}

// Reports implements [cockpit.Gateway].
func (a allGateways) Reports(list []autopilot.Report) []autopilot.Report { return a.hub.Reports(list) }
