package contract

import (
	"strings"
	"testing"

	"loadline.dev/loadline/agent/pyworker"
)

// beyond asks what MLflow's own server has no answer to: streams, and models
// that leave predict by sys.exit.
func beyond(t *testing.T, model string, e *pyworker.Engine) {
	check := func(name, body string, status int, media string, parts ...string) {
		t.Helper()
		got, err := askOurs(e, ask{Model: model, Name: name, Type: new(string), Body: []byte(body)}, "application/json")
		if err != nil {
			t.Errorf("%s: %s: %v", model, name, err)
			return
		}
		if got.status != status || got.media != media {
			t.Errorf("%s: %s: got %v", model, name, got)
		}
		rest := got.body
		for _, part := range parts {
			_, after, found := strings.Cut(rest, part)
			if !found {
				t.Errorf("%s: %s: %q is missing, or not where it belongs, in %q", model, name, part, got.body)
			}
			rest = after
		}
	}
	const events, json = "text/event-stream", "application/json"
	switch model {
	case "chat":
		check("stream", `{"messages":[{"role":"user","content":"hi"}],"stream":true}`, 200, events,
			`data: {"choices": [{`, `"content": "one"`, "}\n\n", "data: {", `"content": "two"`, "}\n\ndata: [DONE]\n\n")
		check("stream of inputs", `{"inputs":{"messages":[{"role":"user","content":"hi"}]},"stream":true}`, 200, events, `"one"`, `"two"`)
		check("stream that fails", `{"messages":[{"role":"user","content":"fail"}],"stream":true}`, 200, events,
			`"one"`, "}\n\n", `data: {"error": {"error_code": "INTERNAL_ERROR", "message": "ValueError: on purpose"}}`+"\n\n")
		check("stream of a bad body", `{"messages":[{"role":"user"}],"stream":true}`, 400, json, `"error_code": "`)
		check("stream of no JSON", `{"messages":[,"stream":true}`, 400, json, `valid JSON`)
		check("stream that is false", `{"messages":[{"role":"user","content":"stream"}],"stream":false}`, 200, json, `1 messages`)
	case "logistic":
		check("stream", `{"dataframe_split":{"columns":["a","b","c","d"],"data":[[1,2,3,4]]},"stream":true}`, 400, json, "BAD_REQUEST", "cannot stream")
		check("false", `{"dataframe_split":{"columns":["a","b","c","d"],"data":[[1,2,3,4]]},"stream":false}`, 200, json, "predictions")
	case "faults":
		for _, body := range []string{`{"inputs":["exit"]}`, `{"inputs":["exit"], "stream":false}`} {
			check("exit", body, 500, json, "INTERNAL_ERROR", "SystemExit: 3")
		}
		check("after exit", `{"inputs":["print"]}`, 200, json, `{"predictions": [1]}`)
	}
}
