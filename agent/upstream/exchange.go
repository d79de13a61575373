package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"loadline.dev/loadline/agent"
)

// whole is up to which size a body is gathered before it is passed on, so that
// one that breaks can still be answered for as a whole.
const whole = 64 << 10

// exchange sends one request and carries its answer back. When ctx ends, an
// abrupt one closes its connection; any other waits for the engine unless the
// request never came to it whole. A body that the engine did not want may be
// read from for a moment longer.
func (e *Engine) exchange(ctx context.Context, r *agent.Request, w agent.Answerer, abrupt bool) error {
	var first []byte
	if r.Size >= 0 && r.Size <= whole {
		first = make([]byte, r.Size)
		if _, err := io.ReadFull(r.Body, first); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
	}
	c, err := e.conns.get(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return gone(err)
	}
	x := &exchange{conn: c, abrupt: abrupt, request: r, w: w}
	stop := context.AfterFunc(ctx, func() {
		if abrupt || !x.sent.done() {
			c.nc.SetDeadline(time.Unix(1, 0))
		}
	})
	err = x.run(ctx, appendRequest(nil, r, c, first), first != nil)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && x.reusable && x.sent.done() {
		e.conns.put(c)
	} else {
		c.nc.Close()
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// An exchange is one request on one connection.
type exchange struct {
	conn     *conn
	abrupt   bool
	request  *agent.Request
	w        agent.Answerer
	deaf     error // what w said when it wanted no more; nil while it listens
	reusable bool
	sent     upload
}

func (x *exchange) run(ctx context.Context, start []byte, complete bool) error {
	if complete { // said before it is: it fits the socket's buffer
		x.sent.finish()
	}
	if n, err := x.conn.nc.Write(start); err != nil {
		if n == 0 && ctx.Err() == nil {
			return gone(err)
		}
		return fmt.Errorf("send request to engine: %w", err)
	}
	if !complete {
		go x.upload()
	}
	h, err := readHead(x.conn.in, x.request.Method)
	if err != nil {
		return x.blame(err)
	}
	if err := x.pass(h); err != nil {
		return err
	}
	x.reusable = !h.close
	return nil
}

// blame prefers the reason why the request could not be sent to what came of it.
func (x *exchange) blame(err error) error {
	if sending := x.sent.failure(); sending != nil {
		return sending
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Canceled // ours: the only deadline that is set
	}
	return err
}

// upload sends a body that is long, or of unknown length.
func (x *exchange) upload() {
	buf := make([]byte, 32<<10)
	left := x.request.Size
	for {
		n, err := x.request.Body.Read(buf)
		if n > 0 {
			piece := buf[:n]
			if x.request.Size < 0 {
				piece = append(fmt.Appendf(nil, "%x\r\n", n), piece...)
				piece = append(piece, "\r\n"...)
			}
			if _, err := x.conn.nc.Write(piece); err != nil {
				return // it may have answered without reading on
			}
			left -= int64(n)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			x.sent.fail(fmt.Errorf("read request: %w", err))
			x.conn.nc.SetDeadline(time.Unix(1, 0))
			return
		}
	}
	if x.request.Size < 0 {
		if _, err := x.conn.nc.Write([]byte("0\r\n\r\n")); err != nil {
			return
		}
	} else if left != 0 {
		x.sent.fail(errors.New("read request: its body is not as long as it said"))
		x.conn.nc.SetDeadline(time.Unix(1, 0))
		return
	}
	x.sent.finish()
}

// pass hands the answer on.
func (x *exchange) pass(h *head) error {
	body := &body{in: x.conn.in, left: h.size, chunked: h.chunked}
	if h.size >= 0 && h.size <= whole {
		data := make([]byte, h.size)
		if _, err := io.ReadFull(body, data); err != nil {
			return x.blame(cut(err))
		}
		if err := x.surplus(h); err != nil {
			return err
		}
		x.heard(x.w.Head(h.status, h.header, h.size))
		x.tell(data)
		return x.deaf
	}
	x.heard(x.w.Head(h.status, h.header, h.size))
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			x.tell(buf[:n])
			if x.conn.in.Buffered() == 0 { // nothing follows at once
				x.flush()
			}
		}
		if errors.Is(err, io.EOF) {
			return errors.Join(x.surplus(h), x.deaf)
		}
		if err != nil {
			return x.blame(cut(err))
		}
		if x.deaf != nil && x.abrupt {
			return x.deaf
		}
	}
}

// surplus finds bytes behind the end of an answer, where none were asked for.
func (x *exchange) surplus(h *head) error {
	if !h.close && x.conn.in.Buffered() > 0 {
		return bad("bytes follow the end of its body")
	}
	return nil
}

// heard notes that nobody listens any more. The engine's answer is still read
// to its end, so that its place is not given to another too early.
func (x *exchange) heard(err error) {
	if x.deaf == nil {
		x.deaf = err
	}
}

func (x *exchange) tell(p []byte) {
	if x.deaf == nil && len(p) > 0 {
		_, err := x.w.Write(p)
		x.heard(err)
	}
}

func (x *exchange) flush() {
	if x.deaf == nil {
		x.heard(x.w.Flush())
	}
}

// appendRequest writes the head, and first behind it.
func appendRequest(b []byte, r *agent.Request, c *conn, first []byte) []byte {
	path := r.Path
	if path == "" {
		path = "/"
	}
	b = append(b, r.Method+" "+path+" HTTP/1.1\r\nHost: "+c.nc.RemoteAddr().String()+"\r\n"...)
	for _, f := range r.Header {
		switch strings.ToLower(f.Name) {
		// Ours to say, or none of the engine's business.
		case "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection",
			"proxy-authorization", "te", "trailer", "upgrade", "expect", "http2-settings":
			continue
		}
		if token(f.Name) && plain(f.Value) {
			b = append(b, f.Name+": "+f.Value+"\r\n"...)
		}
	}
	switch {
	case r.Size < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case r.Size > 0 || r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH":
		b = strconv.AppendInt(append(b, "Content-Length: "...), r.Size, 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, first...)
}

// fits says whether a path can stand in a request line.
func fits(path string) bool {
	return strings.IndexFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}
