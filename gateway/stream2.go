package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"loadline.dev/loadline/gateway/http1"
)

// A stream2 is one HTTP/2 stream as a conn uses it: it is read like a socket,
// and an answer is given in parts rather than as text.
type stream2 struct {
	w      http.ResponseWriter
	r      *http.Request
	header http.Header
	sent   bool // the head
	whole  bool // the answer was given to its end

	// A body of unknown length comes as chunks, through a pipe whose reader can
	// be stopped and go on later.
	pipe   net.Conn
	piping chan struct{} // closed when nothing writes into the pipe any more

	mu   sync.Mutex
	over bool // the handler is about to return: w is of no use any more
}

var _ net.Conn = (*stream2)(nil)

func newStream(g *Gateway, w http.ResponseWriter, r *http.Request) *conn {
	s := &stream2{w: w, r: r, header: w.Header()}
	c := &conn{g: g, nc: s, sock: s, stream2: s, fd: -1, remote: r.RemoteAddr, secure: true}
	c.ctx, c.leave = context.WithCancel(r.Context())
	return c
}

var (
	errPseudo  = &http1.Refusal{Status: 400, Why: "method, path or authority holds a character that is not allowed"}
	errNoBody  = &http1.Refusal{Status: 400, Why: "Content-Length of a request without a body"}
	errNotText = &http1.Refusal{Status: 400, Why: "header field name or value holds a character that is not allowed"}
)

// compose writes the head of the request as HTTP/1.1 would have it, so that one
// parser judges both. Whatever could end a line early is refused before.
func (c *conn) compose(r *http.Request) *http1.Refusal {
	b := make([]byte, 0, firstBuffer)
	for _, part := range [...]string{r.Method, r.RequestURI, r.Host} {
		for i := range len(part) {
			if part[i] <= ' ' || part[i] == 0x7f {
				return errPseudo
			}
		}
	}
	b = append(b, r.Method...)
	b = append(append(b, ' '), r.RequestURI...)
	b = append(b, " HTTP/1.1\r\n"...)
	if r.Host != "" {
		b = line(b, "host", r.Host)
	}
	for name, values := range r.Header {
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n\x00") || strings.ContainsAny(name, ":\r\n\x00") {
				return errNotText
			}
			if name == "Host" && v == r.Host {
				continue
			}
			if b = line(b, name, v); len(b) > largeBuffer {
				break // the parser says that it is too large
			}
		}
	}
	switch said := r.Header.Get("Content-Length"); {
	case r.ContentLength < 0:
		b = line(b, "transfer-encoding", "chunked")
		c.stream2.pump()
	case r.ContentLength == 0 && strings.Trim(said, "0") != "":
		return errNoBody
	}
	b = append(b, "\r\n"...)
	c.in, c.w = b[:cap(b)], len(b)
	return nil
}

func line(b []byte, name, value string) []byte {
	b = append(append(b, name...), ':', ' ')
	return append(append(b, value...), '\r', '\n')
}

// pump carries the body into the pipe, in chunks.
func (s *stream2) pump() {
	here, there := net.Pipe()
	s.pipe, s.piping = here, make(chan struct{})
	go func() {
		defer close(s.piping)
		defer there.Close()
		buf := make([]byte, 16<<10)
		for {
			n, err := s.r.Body.Read(buf)
			if n > 0 {
				head := append(strconv.AppendInt(nil, int64(n), 16), "\r\n"...)
				for _, part := range [][]byte{head, buf[:n], []byte("\r\n")} {
					if _, err := there.Write(part); err != nil {
						return
					}
				}
			}
			if errors.Is(err, io.EOF) {
				_, _ = io.WriteString(there, "0\r\n\r\n") // nobody may want it any more
			}
			if err != nil {
				return
			}
		}
	}()
}

// Read reads the body as HTTP/1.1 would send it.
func (s *stream2) Read(p []byte) (int, error) {
	if s.pipe != nil {
		return s.pipe.Read(p)
	}
	n, err := s.r.Body.Read(p)
	if n > 0 {
		err = nil
	}
	return n, err
}

// Write sends a piece of the body, after the head.
func (s *stream2) Write(p []byte) (int, error) { return s.w.Write(p) }

// errFinal says that an HTTP/2 stream forgets no deadline that has passed.
var errFinal = errors.New("deadlines of a stream are final")

// SetReadDeadline ends reads at once if t is past; it knows no other use.
func (s *stream2) SetReadDeadline(t time.Time) error {
	if s.pipe != nil {
		return s.pipe.SetReadDeadline(t)
	}
	return s.expire(t, (*http.ResponseController).SetReadDeadline)
}

// SetWriteDeadline ends writes at once if t is past; it knows no other use.
func (s *stream2) SetWriteDeadline(t time.Time) error {
	return s.expire(t, (*http.ResponseController).SetWriteDeadline)
}

func (s *stream2) expire(t time.Time, set func(*http.ResponseController, time.Time) error) error {
	if t.IsZero() {
		return errFinal
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return os.ErrClosed
	}
	return set(http.NewResponseController(s.w), t)
}

// SetDeadline implements [net.Conn].
func (s *stream2) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// Close ends reads and writes at once.
func (s *stream2) Close() error { return s.SetDeadline(time.Unix(1, 0)) }

// LocalAddr implements [net.Conn].
func (s *stream2) LocalAddr() net.Addr { return &net.UnixAddr{Name: "stream"} }

// RemoteAddr implements [net.Conn].
func (s *stream2) RemoteAddr() net.Addr { return &net.UnixAddr{Name: s.r.RemoteAddr} }

// close ends the use of the stream. It reports whether it was answered whole.
func (s *stream2) close() bool {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	if s.pipe != nil {
		s.pipe.Close()
		s.r.Body.Close()
		<-s.piping
	}
	return s.whole
}

// endHead says how long the body is, -1 being unknown.
func (s *stream2) endHead(size int64, last bool) {
	if size >= 0 {
		s.header.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	if last {
		s.header.Set("Connection", "close") // becomes a GOAWAY
	}
	if s.header["Content-Type"] == nil {
		s.header["Content-Type"] = nil // nobody is to guess it
	}
}

// send sends the head, once, and what has gathered of the body.
func (s *stream2) send(status int, p []byte) error {
	if !s.sent {
		s.sent = true
		s.w.WriteHeader(status)
	}
	if len(p) > 0 {
		if _, err := s.w.Write(p); err != nil {
			return err
		}
	}
	if s.whole {
		return nil // the end of the handler sends it, with the end of the stream
	}
	return http.NewResponseController(s.w).Flush()
}
