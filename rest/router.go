package rest

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
)

// A handler answers or returns what went wrong.
type handler func(w http.ResponseWriter, r *http.Request) error

// A router finds a handler by path, then by method, so that a wrong method is
// told apart from a wrong path, both in JSON.
type router struct {
	log    *slog.Logger
	routes []route
}

type route struct {
	segments []string // "{x}" matches anything and becomes a path value
	methods  map[string]handler
}

func (t *router) on(method, path string, h handler) {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	for _, r := range t.routes {
		if slices.Equal(r.segments, segments) {
			r.methods[method] = h
			return
		}
	}
	t.routes = append(t.routes, route{segments, map[string]handler{method: h}})
}

func (t *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := t.find(r)
	if err := h(w, r); err != nil {
		writeError(w, r, err, t.log)
	}
}

func (t *router) find(r *http.Request) handler {
	segments := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	for _, candidate := range t.routes {
		if !candidate.matches(segments) {
			continue
		}
		h, ok := candidate.methods[r.Method]
		if !ok {
			return candidate.wrongMethod
		}
		for i, s := range candidate.segments {
			if isVariable(s) {
				r.SetPathValue(s[1:len(s)-1], segments[i])
			}
		}
		return h
	}
	return wrongPath
}

func isVariable(segment string) bool { return strings.HasPrefix(segment, "{") }

func (c route) matches(segments []string) bool {
	return slices.EqualFunc(c.segments, segments, func(want, got string) bool {
		return isVariable(want) && got != "" || want == got
	})
}

func (c route) wrongMethod(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for m := range c.methods {
		allowed = append(allowed, m)
	}
	slices.Sort(allowed)
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return &refusal{http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED",
		fmt.Sprintf("%.20s is not allowed on %.200s; allowed: %s", r.Method, r.URL.Path, strings.Join(allowed, ", "))}
}

func wrongPath(_ http.ResponseWriter, r *http.Request) error {
	return &refusal{http.StatusNotFound, "ENDPOINT_NOT_FOUND", fmt.Sprintf("no API for %.20s %.200s", r.Method, r.URL.Path)}
}

// body reads a request's body within bounds.
func body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, invalid("the body cannot be read: %w", err)
	}
	return data, nil
}
