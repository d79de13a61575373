package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// maxIdle is how long a connection may be used again after its last answer.
// Servers close idle ones after five seconds or more; a request must not cross
// such a close.
const maxIdle = 2 * time.Second

// A conn is one connection to the engine.
type conn struct {
	nc    net.Conn
	in    *bufio.Reader
	since time.Time // idle since
}

// alive looks, without waiting, whether an idle connection is still open and silent.
func (c *conn) alive() bool {
	raw, err := c.nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errors.Is(err, syscall.EAGAIN)
	})
	return err == nil && quiet && c.in.Buffered() == 0
}

// A pool keeps idle connections to one port.
type pool struct {
	mu     sync.Mutex
	addr   string
	idle   []*conn
	closed bool
}

// open sets the port; what is idle belongs to another.
func (p *pool) open(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.nc.Close()
	}
	p.addr, p.idle = fmt.Sprintf("127.0.0.1:%d", port), nil
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		c.nc.Close()
	}
	p.idle = nil
}

// get returns an idle connection that still stands, or a new one.
func (p *pool) get(ctx context.Context) (*conn, error) {
	for {
		c, addr := p.pop()
		if c == nil {
			var d net.Dialer
			nc, err := d.DialContext(ctx, "tcp4", addr)
			if err != nil {
				return nil, err
			}
			nc = hasten(nc)
			return &conn{nc: nc, in: bufio.NewReaderSize(nc, maxHead)}, nil
		}
		if time.Since(c.since) < maxIdle && c.alive() {
			return c, nil
		}
		c.nc.Close()
	}
}

// pop takes the connection that was used last.
func (p *pool) pop() (*conn, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil, p.addr
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return c, p.addr
}

func (p *pool) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= 64 {
		c.nc.Close()
		return
	}
	p.idle = append(p.idle, c)
}
