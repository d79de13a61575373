package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

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
