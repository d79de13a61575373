package pyworker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/scoring"
)

const jsonType = "application/json"

// Do implements [agent.Engine].
func (e *Engine) Do(ctx context.Context, r *agent.Request, w agent.Answerer) error {
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
			text = e.hello.MLflow
		}
		return answer(w, 200, jsonType, []byte(text))
	}
	return answer(w, 404, jsonType, []byte(`{"detail":"Not Found"}`))
}

func notAllowed(w agent.Answerer, method string) error {
	const body = `{"detail":"Method Not Allowed"}`
	if err := w.Head(405, []link.Field{{Name: "Content-Type", Value: jsonType}, {Name: "Allow", Value: method}}, int64(len(body))); err != nil {
		return err
	}
	_, err := w.Write([]byte(body))
	return err
}

func answer(w agent.Answerer, status int, media string, body []byte) error {
	if err := w.Head(status, []link.Field{{Name: "Content-Type", Value: media}}, int64(len(body))); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// refuse answers with the project's error form.
func refuse(w agent.Answerer, status int, code, format string, args ...any) error {
	body, err := json.Marshal(struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}{code, fmt.Sprintf(format, args...)})
	if err != nil {
		return err
	}
	return answer(w, status, jsonType, body)
}

func (e *Engine) invoke(ctx context.Context, r *agent.Request, w agent.Answerer) error {
	contentType, hasType := r.ContentType, r.ContentType != ""
	if !hasType {
		// An empty value is a type that nobody knows, no field is no type at all.
		for _, f := range r.Header {
			hasType = hasType || strings.EqualFold(f.Name, "Content-Type")
		}
	}
	// Room for the header and the type lies before the body, so that the frame
	// is written as it was read.
	room := headerSize + 4 + len(contentType)
	buf, err := readBody(r, e.config.MaxBody, room)
	if err != nil {
		if bad, is := errors.AsType[*badBody](err); is {
			return refuse(w, bad.status, bad.code, "%s", bad.message)
		}
		return err
	}
	if e.config.Strict && strings.HasPrefix(strings.TrimSpace(contentType), jsonType) {
		if refusal := e.reader.Strict(buf[room:]); refusal != nil {
			return refuse(w, 400, "INVALID_PARAMETER_VALUE", "%v", refusal)
		}
	}
	if isJSON(contentType) {
		if columns, ok := e.reader.Columns(make([]byte, headerSize, headerSize+len(buf)-room+512), buf[room:]); ok {
			e.columns.Add(1)
			if rows := e.together(columns); rows > 0 {
				return e.askTogether(ctx, columns, rows, w)
			}
			return e.ask(ctx, kindColumns, columns, w, nil)
		}
	}
	size := uint32(noType)
	if hasType {
		size = uint32(len(contentType))
	}
	binary.LittleEndian.PutUint32(buf[headerSize:], size)
	copy(buf[headerSize+4:], contentType)
	e.raw.Add(1)
	return e.ask(ctx, kindRaw, buf, w, nil)
}

// isJSON knows the ways to write the type for which columns are worth a try.
func isJSON(contentType string) bool {
	switch contentType {
	case jsonType, jsonType + "; charset=utf-8", jsonType + ";charset=utf-8", jsonType + "; charset=UTF-8":
		return true
	}
	return false
}

// ask sends one request frame and carries its answer back. buf is the header's
// room and the payload. f ends with the answer; it may be nil.
func (e *Engine) ask(ctx context.Context, k kind, buf []byte, w agent.Answerer, f *flight) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, id, err := e.open(f)
	if err != nil {
		return err
	}
	defer e.close(id)
	if err := e.send(buf, k, id); err != nil {
		return err
	}
	cancelled := ctx.Done()
	listening := true
	var lost error // why the caller has no whole answer
	for {
		f, err := c.pop(cancelled)
		switch {
		case errors.Is(err, errCancelled):
			cancelled = nil // say it once
			listening, lost = false, ctx.Err()
			e.cancel(id)
			continue
		case err != nil:
			return fmt.Errorf("the worker died inside a request: %w", err)
		case f.kind == kindDropped:
			if lost != nil {
				return lost
			}
			return agent.ErrEngineGone // it was stopped before the request's turn
		}
		if k == kindColumns && f.kind == kindText {
			e.texts.Add(1)
		}
		// A client that left is answered no more, but its place is held until
		// the worker is done with it.
		last, err := pass(f, w, listening)
		if err == nil && c.slow() {
			err = errSlow
		}
		if err != nil && listening {
			listening, lost = false, err
			e.cancel(id)
		}
		if last {
			return lost
		}
	}
}

// pass hands one frame of an answer on, or drops it when nobody listens any
// more. It says whether it was the last.
func pass(f frame, w agent.Answerer, listening bool) (last bool, err error) {
	if !listening {
		return f.kind.last(), nil
	}
	switch f.kind {
	case kindText:
		status, media, body, err := splitText(f.payload)
		if err != nil {
			return true, err
		}
		return true, answer(w, status, media, body)
	case kindTable:
		body, err := scoring.AppendTable(make([]byte, 0, 64+3*len(f.payload)), f.payload)
		if err != nil {
			return true, err
		}
		return true, answer(w, 200, jsonType, body)
	case kindHead:
		status, media, _, err := splitText(f.payload)
		if err != nil {
			return false, err
		}
		return false, w.Head(status, []link.Field{{Name: "Content-Type", Value: media}, {Name: "Cache-Control", Value: "no-cache"}}, -1)
	case kindPiece:
		return false, write(w, f.payload)
	case kindEnd:
		return true, nil
	}
	return true, fmt.Errorf("the worker answered with a frame of kind %d", f.kind)
}

func write(w agent.Answerer, p []byte) error {
	if _, err := w.Write(p); err != nil {
		return err
	}
	return w.Flush()
}

// send hands a frame to the worker; buf is the header's room and the payload.
func (e *Engine) send(buf []byte, k kind, id uint64) error {
	putHeader(buf, k, id)
	n, err := e.conn.Write(buf)
	switch {
	case err == nil:
		return nil
	case n == 0:
		return agent.ErrEngineGone
	}
	return fmt.Errorf("the worker died while a request was handed to it: %w", err)
}

// open makes the call that the answer to a new request will come to. f, which
// may be nil, ends with that answer.
func (e *Engine) open(f *flight) (*call, uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.calls == nil {
		return nil, 0, agent.ErrEngineGone
	}
	e.next++
	c := &call{ready: make(chan struct{}, 1), flight: f}
	e.calls[e.next] = c
	return c, e.next, nil
}

func (e *Engine) close(id uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.calls, id)
}

// cancel tells the worker that nobody waits for a request any more. An error
// means that the socket is broken, which the reader sees as well.
func (e *Engine) cancel(id uint64) {
	var b [headerSize]byte
	putHeader(b[:], kindCancel, id)
	_, _ = e.conn.Write(b[:])
}

// A call is one request in the worker: its answer's frames, in order, as far
// as they have come.
type call struct {
	ready  chan struct{} // holds a token when there may be something
	flight *flight       // nil when nobody waits for this answer to go next

	mu     sync.Mutex
	frames []frame
	bytes  int  // of pieces among frames
	late   bool // pieces were thrown away
	dead   bool
}

// maxQueued bounds what a stream's reader may be behind, so that one slow
// client neither fills memory nor keeps the worker from answering others.
const maxQueued = 16 << 20

var (
	errCancelled = errors.New("cancelled")
	errBroken    = errors.New("its socket closed")
	errSlow      = fmt.Errorf("the client is more than %d bytes behind the stream", maxQueued)
)

func (c *call) push(f frame) {
	c.mu.Lock()
	if f.kind == kindPiece {
		c.late = c.late || c.bytes+len(f.payload) > maxQueued
		if c.late {
			f.payload = nil
		}
		c.bytes += len(f.payload)
	}
	c.frames = append(c.frames, f)
	c.mu.Unlock()
	c.wake()
}

func (c *call) slow() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}

func (c *call) broken() {
	c.mu.Lock()
	c.dead = true
	c.mu.Unlock()
	c.wake()
}

func (c *call) wake() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// pop returns the next frame, errCancelled when cancelled closes first, or
// errBroken.
func (c *call) pop(cancelled <-chan struct{}) (frame, error) {
	for {
		c.mu.Lock()
		if len(c.frames) > 0 {
			f := c.frames[0]
			c.frames = c.frames[1:]
			if f.kind == kindPiece {
				c.bytes -= len(f.payload)
			}
			c.mu.Unlock()
			return f, nil
		}
		dead := c.dead
		c.mu.Unlock()
		if dead {
			return frame{}, errBroken
		}
		select {
		case <-c.ready:
		case <-cancelled:
			return frame{}, errCancelled
		}
	}
}
