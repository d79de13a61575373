package gateway

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An answer is how far the answer to the request was written.
type answer struct {
	status  int
	started bool // its head is in out, or sent
	sent    bool // some of it is on its way and cannot be taken back
	chunked bool
	bare    bool // it has no body, whatever its length says
	closing bool // it says that nothing follows on this connection

	uploading bool  // the body is in the hands of an upload
	left      int64 // bytes still owed when their number was said
	entity    string
	limits    *limits // of the endpoint; nil tells of none
}

func (a *answer) begin() { *a = answer{} }

// startHead begins the head of an answer with what every answer carries.
func (c *conn) startHead(status int) {
	a := &c.answer
	a.status, a.started = status, true
	if c.stream2 == nil {
		c.statusLine(status)
	} else {
		clear(c.stream2.header) // of an answer that was taken back
	}
	c.addField("X-Request-Id", text(c.id[:c.idLen]))
	if a.entity != "" {
		c.addField("served-model-name", a.entity)
	}
	c.addLimits()
}

func (c *conn) statusLine(status int) {
	c.out = append(c.out, "HTTP/1.1 "...)
	c.out = strconv.AppendInt(c.out, int64(status), 10)
	c.out = append(c.out, ' ')
	c.out = append(c.out, http.StatusText(status)...)
	c.out = append(c.out, "\r\nDate: "...)
	c.out = append(c.out, c.g.date()...)
	c.out = append(c.out, "\r\n"...)
}

func (c *conn) addField(name, value string) {
	if c.stream2 != nil {
		c.stream2.header.Add(strings.Clone(name), strings.Clone(value)) // they are sent after the request has ended
		return
	}
	c.out = append(c.out, name...)
	c.out = append(c.out, ": "...)
	c.out = append(c.out, value...)
	c.out = append(c.out, "\r\n"...)
}

// endHead says how long the body is, -1 being unknown, and ends the head.
func (c *conn) endHead(size int64) {
	a := &c.answer
	a.bare = c.head.Method == "HEAD" || a.status == 204 || a.status == 304
	a.closing = a.closing || c.head.Close || !c.g.Ready() || !a.uploading && c.body.unread() && !c.body.skippable()
	if c.stream2 != nil {
		a.left = size
		if a.status == 204 {
			size = -1
		}
		c.stream2.endHead(size, !c.g.Ready())
		return
	}
	switch {
	case size >= 0 && a.status != 204:
		c.out = append(c.out, "Content-Length: "...)
		c.out = strconv.AppendInt(c.out, size, 10)
		c.out = append(c.out, "\r\n"...)
		a.left = size
	case size < 0 && c.head.Minor == 0:
		a.closing = true // the end of the connection is the end of the answer
		a.left = -1
	case size < 0 && !a.bare:
		c.out = append(c.out, "Transfer-Encoding: chunked\r\n"...)
		a.chunked, a.left = true, -1
	}
	switch {
	case a.closing:
		c.out = append(c.out, "Connection: close\r\n"...)
	case c.head.Minor == 0:
		c.out = append(c.out, "Connection: keep-alive\r\n"...)
	}
	c.out = append(c.out, "\r\n"...)
}

// writeBody adds a piece of the body; it is sent once enough has gathered.
func (c *conn) writeBody(p []byte) error {
	a := &c.answer
	if a.bare || len(p) == 0 {
		return nil
	}
	if a.chunked {
		c.out = strconv.AppendInt(c.out, int64(len(p)), 16)
		c.out = append(c.out, "\r\n"...)
	}
	c.out = append(c.out, p...)
	if a.chunked {
		c.out = append(c.out, "\r\n"...)
	} else {
		a.left -= int64(len(p))
	}
	if len(c.out) >= wholeAnswer {
		return c.flush()
	}
	return nil
}

// finish ends the answer and sends what is left of it.
func (c *conn) finish() error {
	if c.answer.chunked {
		c.out = append(c.out, "0\r\n\r\n"...)
	}
	if c.stream2 != nil {
		c.stream2.whole = true
	}
	return c.flush()
}

// flush sends what has gathered.
func (c *conn) flush() error {
	c.answer.sent = c.answer.started
	if c.stream2 != nil {
		return c.flushStream()
	}
	for sent := 0; sent < len(c.out); {
		c.writeUntil.Store(c.g.now() + int64(c.g.Patience.Write))
		n, err := c.write(c.out[sent:min(len(c.out), sent+wholeAnswer)])
		sent += n
		// TLS is of no more use after a write that ended within a record.
		if err != nil && (c.secure || !c.early(err, &c.writeUntil, c.sock.SetWriteDeadline)) {
			c.writeUntil.Store(0)
			c.out = c.out[:0]
			c.interrupt(left, 0)
			return errGone
		}
	}
	c.writeUntil.Store(0)
	c.out = c.out[:0]
	return nil
}

// A client that sends ahead is looked at now and then: whether it takes what it
// asked for. One that does not is not executed any further meanwhile.
const (
	lookAhead = 16
	untaken   = 4 << 10 // bytes of answers that may wait for a client to take others
	lookLater = 10 * time.Millisecond
)

// inStep waits for a client that is far ahead of its answers. False says that it
// takes them no more.
func (c *conn) inStep() bool {
	if c.r == c.w {
		c.ahead = 0
		return true
	}
	if c.ahead++; c.ahead%lookAhead != 0 {
		return true
	}
	for until := c.g.now() + int64(c.g.Patience.Write); waitingToBeSent(c.raw) > untaken; {
		if c.ctx.Err() != nil || c.g.now() >= until || hasLeft(c.raw) {
			return false
		}
		select {
		case <-c.ctx.Done():
		case <-time.After(lookLater):
		}
	}
	return true
}

// flushStream is flush where the answer is no text.
func (c *conn) flushStream() error {
	c.writeUntil.Store(c.g.now() + int64(c.g.Patience.Write))
	err := c.stream2.send(c.answer.status, c.out)
	c.writeUntil.Store(0)
	c.out = c.out[:0]
	if err != nil {
		c.interrupt(left, 0)
		return errGone
	}
	return nil
}

// A dateText is the Date of answers within one second.
type dateText struct {
	second int64
	text   []byte
}

func (g *Gateway) date() []byte {
	now := time.Now()
	if d := g.dated.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &dateText{now.Unix(), now.UTC().AppendFormat(nil, http.TimeFormat)}
	g.dated.Store(d)
	return d.text
}
