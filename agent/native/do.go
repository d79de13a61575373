package native

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
)

const jsonType = "application/json"

var jsonHead = []link.Field{{Name: "Content-Type", Value: jsonType}}

// Do implements [agent.Engine].
func (e *Engine) Do(ctx context.Context, r *agent.Request, w agent.Answerer) error {
	if !e.life.TryRLock() {
		return agent.ErrEngineGone
	}
	defer e.life.RUnlock()
	path, _, _ := strings.Cut(r.Path, "?")
	switch path {
	case "/invocations":
		if r.Method != "POST" {
			return notAllowed(w, "POST")
		}
		return e.invoke(ctx, r, w)
	case "/ping", "/health", "/version":
		if r.Method != "GET" {
			return notAllowed(w, "GET")
		}
		text := "\n"
		if path == "/version" {
			text = e.config.Native.MLflow
		}
		return answer(w, 200, jsonHead, []byte(text))
	}
	return answer(w, 404, jsonHead, []byte(`{"detail":"Not Found"}`))
}

func notAllowed(w agent.Answerer, method string) error {
	return answer(w, 405, []link.Field{jsonHead[0], {Name: "Allow", Value: method}}, []byte(`{"detail":"Method Not Allowed"}`))
}

func answer(w agent.Answerer, status int, head []link.Field, body []byte) error {
	if err := w.Head(status, head, int64(len(body))); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// buffers are for bodies that come and answers that go. One that grew large is
// left to the collector.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const keepBuffer = 64 << 10

// invoke answers here if it can, and has the reserve answer if not.
func (e *Engine) invoke(ctx context.Context, r *agent.Request, w agent.Answerer) error {
	if !isJSON(r.ContentType) || r.ContentEncoding != "" || r.Size > e.config.MaxBody {
		return e.pass(ctx, r, w)
	}
	kept := buffers.Get().(*[]byte)
	defer func() {
		if cap(*kept) <= keepBuffer {
			buffers.Put(kept)
		}
	}()
	body, err := readUpTo((*kept)[:0], r.Body, r.Size, e.config.MaxBody)
	*kept = body
	if err != nil {
		return err
	}
	if int64(len(body)) <= e.config.MaxBody {
		text, ok := e.predict(body)
		if ok {
			e.columns.Add(1)
			return answer(w, 200, jsonHead, text)
		}
	}
	again := *r
	again.Body = bytes.NewReader(body)
	if int64(len(body)) > e.config.MaxBody {
		again.Body = io.MultiReader(again.Body, r.Body)
	}
	return e.pass(ctx, &again, w)
}

// predict answers a body, or reports that it is not for this engine.
func (e *Engine) predict(body []byte) ([]byte, bool) {
	if e.config.Strict && e.reader.Strict(body) != nil {
		return nil, false
	}
	batch, ok := e.reader.Batch(body)
	if !ok || batch.Params {
		return nil, false
	}
	text, err := e.model.run(&batch)
	return text, err == nil // if not, the reserve says it in MLflow's words
}

// pass has the reserve answer.
func (e *Engine) pass(ctx context.Context, r *agent.Request, w agent.Answerer) error {
	e.raw.Add(1)
	engine, giveBack, err := e.reserve.lend(ctx)
	if err != nil {
		return err
	}
	defer giveBack()
	err = engine.Do(ctx, r, w)
	if errors.Is(err, agent.ErrEngineGone) {
		// Only the reserve is gone; the agent must not take it for this engine.
		return link.ErrNotTaken
	}
	return err
}

// isJSON knows the ways to write the type that are read here.
func isJSON(contentType string) bool {
	switch contentType {
	case jsonType, jsonType + "; charset=utf-8", jsonType + ";charset=utf-8", jsonType + "; charset=UTF-8":
		return true
	}
	return false
}

// readUpTo appends what src holds to dst, up to one byte more than limit. size
// is a hint, -1 when unknown.
func readUpTo(dst []byte, src io.Reader, size, limit int64) ([]byte, error) {
	if need := int(size) + 1; need > cap(dst) {
		dst = make([]byte, 0, need)
	}
	for int64(len(dst)) <= limit {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := src.Read(dst[len(dst):min(int64(cap(dst)), limit+1)])
		dst = dst[:len(dst)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return dst, err
		}
	}
	return dst, nil
}
