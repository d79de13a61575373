package upstream

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"time"
)

// Ports are taken from below those that the kernel gives to outgoing
// connections, so that none of them turns up on one by chance.
const (
	firstPort = 20000
	lastPort  = 32767
)

// A port is one that nobody listened on, and that no other agent on this
// machine picks while it is not released.
type port struct {
	number int
	claim  net.Listener // nil where there is no way to claim
}

func reserve() (*port, error) {
	for range 200 {
		p := &port{number: firstPort + rand.IntN(lastPort-firstPort+1)}
		if !p.take() {
			continue
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", p.number))
		if err != nil {
			p.release()
			continue
		}
		l.Close()
		return p, nil
	}
	return nil, fmt.Errorf("no free loopback port from %d to %d", firstPort, lastPort)
}

// take claims the number by a name that belongs to one process at a time and
// vanishes with it.
func (p *port) take() bool {
	if runtime.GOOS != "linux" {
		return true
	}
	l, err := net.Listen("unix", fmt.Sprintf("@loadline-port-%d", p.number))
	p.claim = l
	return err == nil
}

func (p *port) release() {
	if p.claim != nil {
		p.claim.Close()
	}
}

// listens says whether anybody does on that port.
func listens(port int) bool {
	c, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
