package rest

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"loadline.dev/loadline/serving"
)

// A verdict is how a kind of error looks on the wire.
type verdict struct {
	status int
	code   string
}

// verdicts is the one table from kinds to answers. docs/compat.md lists what
// each client makes of them.
var verdicts = map[serving.Kind]verdict{
	serving.Internal:    {http.StatusInternalServerError, "INTERNAL_ERROR"},
	serving.Invalid:     {http.StatusBadRequest, "INVALID_PARAMETER_VALUE"},
	serving.NotFound:    {http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST"},
	serving.Exists:      {http.StatusConflict, "RESOURCE_ALREADY_EXISTS"},
	serving.Conflict:    {http.StatusConflict, "RESOURCE_CONFLICT"},
	serving.Denied:      {http.StatusForbidden, "PERMISSION_DENIED"},
	serving.Busy:        {http.StatusTooManyRequests, "RESOURCE_EXHAUSTED"},
	serving.Unavailable: {http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE"},
	serving.TimedOut:    {http.StatusGatewayTimeout, "DEADLINE_EXCEEDED"},
}

// retryAfter is in whole seconds: the SDK reads nothing else.
const retryAfter = "2"

// A refusal is an answer that no kind stands for.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string { return r.message }

// absent refuses what a later version may do, rather than half-obey it.
func absent(what, why string) error {
	return &refusal{http.StatusNotImplemented, "NOT_IMPLEMENTED", what + ": " + why}
}

// writeError answers an error. The SDK rewrites codes of bodies that have a
// member named detail, status or error, so there is none.
func writeError(w http.ResponseWriter, r *http.Request, err error, log *slog.Logger) {
	var v verdict
	message := err.Error()
	if refused, ok := errors.AsType[*refusal](err); ok {
		v = verdict{refused.status, refused.code}
	} else {
		kind := serving.KindOf(err)
		v = verdicts[kind]
		if kind == serving.Internal {
			log.Error("request failed", "method", r.Method, "path", r.URL.Path, "why", err)
			message = fmt.Sprintf("%s %s failed on the server's side: %v", r.Method, r.URL.Path, err)
		}
	}
	if v.status == http.StatusTooManyRequests || v.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	answer := object{}
	answer.set("error_code", v.code)
	answer.set("message", message)
	if fix := serving.FixOf(err); fix != "" {
		answer.set("fix", fix)
	}
	writeJSON(w, v.status, answer)
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(encode(value)) // a client that has gone cannot be told
}
