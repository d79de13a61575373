package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"

	"loadline.dev/loadline/auth"
)

// callAPI hands the request to the API's handler. It reports whether another
// may follow on the connection.
func (c *conn) callAPI(who auth.Principal) bool {
	if c.head.Length > c.g.MaxBody {
		c.say(tooLarge(c.g.MaxBody))
		return true
	}
	c.awaiting.Store(0)
	ctx, cancel := context.WithCancel(withCaller(c.ctx, who))
	defer cancel()
	r, err := c.httpRequest(ctx)
	if err != nil {
		c.say(&fault{status: 400, code: "BAD_REQUEST", why: err.Error()})
		return true
	}
	c.g.busy.Add(1)
	defer c.g.busy.Add(-1)
	if !c.body.unread() {
		c.awaiting.Store(c.g.now())
	}
	w := &writer{c: c, header: http.Header{}}
	if !w.run(c.g.API, r) {
		return false
	}
	c.g.metrics.api(c.answer.status)
	return c.interrupted() != left
}

// httpRequest is the request as ordinary handlers know it. It keeps nothing of
// the connection's buffer.
func (c *conn) httpRequest(ctx context.Context) (*http.Request, error) {
	h := &c.head
	target := string(h.Path)
	if len(h.Query) > 0 {
		target += "?" + string(h.Query)
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, errors.New("the request target is not a URL")
	}
	header := make(http.Header, len(h.Fields))
	for _, f := range h.Fields {
		name := textproto.CanonicalMIMEHeaderKey(string(f.Name))
		header[name] = append(header[name], string(f.Value))
	}
	header.Set("X-Request-Id", string(c.id[:c.idLen]))
	r := &http.Request{Method: h.Method, URL: u, Proto: "HTTP/1." + strconv.Itoa(h.Minor), ProtoMajor: 1, ProtoMinor: h.Minor,
		Header: header, Body: http.NoBody, ContentLength: h.Length, Host: string(h.Host), RequestURI: target, RemoteAddr: c.remote}
	if c.stream2 != nil {
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	} else if h.Chunked {
		r.TransferEncoding = []string{"chunked"}
	}
	if c.body.unread() {
		r.Body = &requestBody{c: c}
	}
	return r.WithContext(ctx), nil
}

// A requestBody is the body as a handler reads it.
type requestBody struct {
	c    *conn
	rest []byte
	err  error
}

func (b *requestBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 && b.err == nil {
		b.rest, b.err = b.c.next()
		if b.c.body.taken > b.c.g.MaxBody {
			b.rest, b.err = nil, &http.MaxBytesError{Limit: b.c.g.MaxBody}
		}
		if errors.Is(b.err, errGone) {
			b.c.interrupt(left, 0)
			b.err = io.ErrUnexpectedEOF
		}
		if !b.c.body.unread() {
			b.c.awaiting.Store(b.c.g.now())
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	if n == 0 && b.err != nil {
		return 0, b.err
	}
	return n, nil
}

func (b *requestBody) Close() error { return nil }

// A writer is an answer as a handler writes it.
type writer struct {
	c      *conn
	header http.Header
	status int
	held   []byte // body before the head was sent: its length may yet be known
	sent   bool   // the head is on its way
	err    error
}

var _ http.Flusher = (*writer)(nil)

func (w *writer) Header() http.Header { return w.header }

func (w *writer) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

func (w *writer) Write(p []byte) (int, error) {
	w.WriteHeader(200)
	if w.err != nil {
		return 0, w.err
	}
	if !w.sent && len(w.held)+len(p) <= wholeAnswer/2 {
		w.held = append(w.held, p...)
		return len(p), nil
	}
	w.sendHead(-1)
	return len(p), w.send(p)
}

func (w *writer) send(p []byte) error {
	a := &w.c.answer
	if w.err == nil && !a.bare && a.left >= 0 && int64(len(p)) > a.left {
		w.err = http.ErrContentLength
	}
	if w.err == nil {
		w.err = w.c.writeBody(p)
	}
	return w.err
}

// Flush sends what was written so far.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError is Flush for [http.ResponseController].
func (w *writer) FlushError() error {
	w.WriteHeader(200)
	w.sendHead(-1)
	if w.err == nil {
		w.err = w.c.flush()
	}
	return w.err
}

// sendHead sends the head, and what was held behind it, once. The length is
// known if the handler said it or has ended.
func (w *writer) sendHead(size int64) {
	if w.sent {
		return
	}
	w.sent = true
	if said, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil && said >= 0 {
		size = said
	}
	c := w.c
	if len(w.held) > 0 && w.header["Content-Type"] == nil {
		w.header.Set("Content-Type", http.DetectContentType(w.held))
	}
	if strings.EqualFold(w.header.Get("Connection"), "close") {
		c.answer.closing = true
	}
	c.startHead(w.status)
	for name, values := range w.header {
		for _, v := range values {
			if returned(name, true) && textproto.TrimString(v) == v && !strings.ContainsAny(v, "\r\n\x00") {
				c.addField(name, v)
			}
		}
	}
	c.endHead(size)
	_ = w.send(w.held)
	w.held = nil
}

// run calls the handler and ends its answer. It reports whether the connection
// is still of use.
func (w *writer) run(h http.Handler, r *http.Request) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			w.panicked(p)
			ok = false
		}
	}()
	h.ServeHTTP(w, r)
	w.WriteHeader(200)
	size := int64(len(w.held))
	if w.c.head.Method == "HEAD" && size == 0 {
		size = -1 // the handler may have written nothing because nobody reads it
	}
	w.sendHead(size)
	if w.err == nil {
		w.err = w.c.finish()
	}
	return w.err == nil && (w.c.answer.bare || w.c.answer.left <= 0)
}

// panicked ends an answer whose handler did not come to its end. The aborted
// connection says so where the head has been sent.
func (w *writer) panicked(p any) {
	if p == http.ErrAbortHandler { //nolint:errorlint // a panic with this very value
		return
	}
	w.c.g.Log.Error("handler panicked", "request", string(w.c.id[:w.c.idLen]), "why", fmt.Sprint(p), "stack", string(debug.Stack()))
	w.c.answer.closing = true
	w.c.say(&fault{status: 500, code: "INTERNAL_ERROR", why: "the server failed to answer; its log has the reason under this request's id"})
}
