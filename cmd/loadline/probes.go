package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// probes answers whether the process is well, and its metrics; the rest is the API's.
func (s *server) probes(api http.Handler) http.Handler {
	metrics := promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{EnableOpenMetrics: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/livez":
			fmt.Fprintln(w, "ok")
		case "/readyz":
			s.readyz(w, r)
		case "/metrics":
			metrics.ServeHTTP(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// readyz says whether new requests are welcome: the store answers, and the
// gateway is not draining.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	checks := []struct {
		name string
		err  error
	}{{"gateway", nil}, {"store", nil}}
	if !s.gateway.Ready() {
		checks[0].err = fmt.Errorf("draining")
	}
	_, checks[1].err = s.store.List(r.Context(), "")
	status := http.StatusOK
	var text strings.Builder
	for _, c := range checks {
		if c.err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "[-] %s: %v\n", c.name, c.err)
			continue
		}
		fmt.Fprintf(&text, "[+] %s ok\n", c.name)
	}
	w.WriteHeader(status)
	if _, verbose := r.URL.Query()["verbose"]; verbose || status != http.StatusOK {
		fmt.Fprint(w, text.String())
		return
	}
	fmt.Fprintln(w, "ok")
}
