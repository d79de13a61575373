package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"loadline.dev/loadline/link/secure"
)

// linkKey is the file in a replica's folder that platform/local puts its
// credential into.
const linkKey = "link.pem"

// listenSecurely opens what gateways connect to, as the replica whose folder is
// dir.
func listenSecurely(dir, addr string) (net.Listener, error) {
	i, err := secure.OpenIdentity(filepath.Join(dir, linkKey))
	if err != nil {
		return nil, err
	}
	return i.Listen(addr)
}

// onTLS reads --link: whether new replicas are reached over TLS.
func (s *shell) onTLS() (bool, error) {
	switch mode := s.settings.text("link"); mode {
	case "", "unix":
		return false, nil
	case "tls":
		return true, nil
	default:
		return false, usage("--link %q is not known; known are unix, tls", mode)
	}
}

// secureAgent is how an agent is started that is reached over TLS. The small
// binary cannot: it is built without.
func secureAgent() ([]string, error) {
	self, err := os.Executable()
	return []string{self, "agent", "--link-listen", "127.0.0.1:0"}, err
}

// A ring holds the link's authority and, once it is needed, what this process
// itself proves to be with.
type ring struct {
	authority *secure.Authority
	name      string // of this gateway

	mu    sync.Mutex
	own   *secure.Identity
	renew time.Time
}

// openRing opens the authority that lies in the data folder.
func openRing(data, name string) (*ring, error) {
	a, err := secure.OpenAuthority(filepath.Join(data, "link-ca.pem"), time.Now())
	if err != nil {
		return nil, err
	}
	return &ring{authority: a, name: name}, nil
}

// replica is the credential of a replica; see local.Config.
func (r *ring) replica(id string, now time.Time) ([]byte, time.Time, error) {
	return r.authority.Credential(secure.Replica, id, now)
}

// identity is this process's, renewed when that is due.
func (r *ring) identity(now time.Time) (*secure.Identity, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own != nil && now.Before(r.renew) {
		return r.own, nil
	}
	text, renew, err := r.authority.Credential(secure.Gateway, r.name, now)
	if err != nil {
		return nil, err
	}
	if r.own == nil {
		r.own, err = secure.NewIdentity(text)
	} else {
		err = r.own.Set(text)
	}
	r.renew = renew
	return r.own, err
}

// dial opens a connection to a replica that is reached over TLS; see
// gateway.Config.
func (r *ring) dial(ctx context.Context, addr, replica string) (net.Conn, error) {
	i, err := r.identity(time.Now())
	if err != nil {
		return nil, err
	}
	return i.Dial(ctx, addr, secure.Replica, replica)
}

// dialPeer opens a connection to another gateway.
func (r *ring) dialPeer(ctx context.Context, addr, id string) (net.Conn, error) {
	i, err := r.identity(time.Now())
	if err != nil {
		return nil, err
	}
	return i.Dial(ctx, addr, secure.Gateway, id)
}
