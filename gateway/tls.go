package gateway

import (
	"bytes"
	"crypto/tls"
	"net"

	"loadline.dev/loadline/gateway/http1"
)

// Both kinds of client come to one port: the first byte tells a TLS hello from
// a method. Without a certificate nothing is looked at, and the parser refuses
// the hello as it refuses all that is no request.

// tlsRecord is the first byte of a TLS handshake; no method begins with it.
const tlsRecord = 0x16

// withALPN is what Serve encrypts with: what was configured, with the protocols
// that are spoken here.
func withALPN(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	// Small records first would help a browser show the top of a page sooner.
	// An answer here is of use when it is whole, and each record is a system call.
	c.DynamicRecordSizingDisabled = true
	return c
}

// greet finds out how a new client speaks, and encrypts where it asks for that.
// It reports whether requests of HTTP/1.1 follow.
func (c *conn) greet() bool {
	c.await(false)
	if c.fill() != nil {
		return false
	}
	if c.in[0] == tlsRecord {
		return c.encrypt()
	}
	if !c.g.Clear && !ofThisMachine(c.sock) {
		c.refuse(errClear)
		return false
	}
	return true
}

var errClear = &http1.Refusal{Status: 400, Why: "this port speaks TLS to other machines: use https"}

// ofThisMachine reports whether what is sent on nc crosses no network.
func ofThisMachine(nc net.Conn) bool {
	a, ok := nc.RemoteAddr().(*net.TCPAddr)
	return !ok || a.IP.IsLoopback()
}

// encrypt shakes hands. From then on the same goroutine reads and writes
// through it, or waits for the HTTP/2 that was agreed on to end.
func (c *conn) encrypt() bool {
	socket := &replay{Conn: c.sock, first: bytes.Clone(c.in[:c.w]), over: make(chan struct{})}
	c.r, c.w = 0, 0
	t := tls.Server(socket, c.g.TLS)
	until := c.g.now() + int64(c.g.Patience.Head)
	c.idle.Store(false)
	c.readUntil.Store(until)
	c.writeUntil.Store(until)
	err := t.Handshake()
	c.readUntil.Store(0)
	c.writeUntil.Store(0)
	if err != nil {
		c.g.metrics.refusals.WithLabelValues("tls").Inc()
		return false
	}
	c.nc, c.secure = t, true
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		c.g.front.carry(t, socket.over)
		return false
	}
	return true
}

// A replay is a socket that gives again what was read of it to look.
type replay struct {
	net.Conn
	first []byte
	over  chan struct{} // closed when HTTP/2 on it has ended
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	if len(r.first) == 0 {
		r.first = nil
	}
	return n, nil
}
