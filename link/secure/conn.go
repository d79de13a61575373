package secure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"
)

// protocol is agreed in the handshake, so that no speaker of another protocol
// can be led here.
const protocol = "loadline-link/1"

// A conn is a TLS connection that can be ended from anywhere without waiting,
// as link does it: TLS's own way of closing writes a last record, and may wait
// for room to write it.
type conn struct {
	*tls.Conn
	raw *net.TCPConn
}

// CloseWrite ends what is sent, at once.
func (c conn) CloseWrite() error { return c.raw.CloseWrite() }

// CloseRead ends what is read, at once.
func (c conn) CloseRead() error { return c.raw.CloseRead() }

// Close ends the connection, at once.
func (c conn) Close() error { return c.raw.Close() }

// Dial connects to addr, HOST:PORT, where one called name is to listen in that
// role; anybody else there is not spoken to. It returns when both have proven
// who they are as far as can be known: a side that does not like us says so
// with its first answer.
func (i *Identity) Dial(ctx context.Context, addr string, role Role, name string) (net.Conn, error) {
	mine := i.newest()
	if now := time.Now(); now.After(mine.cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("dial %s: our own certificate has expired at %s", addr, mine.cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, &tls.Config{
		ServerName: role.host(name), RootCAs: mine.roots, Certificates: []tls.Certificate{mine.cert},
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, DynamicRecordSizingDisabled: true,
	})
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return conn{c, raw.(*net.TCPConn)}, nil
}

// Listen listens on addr, HOST:PORT, and answers gateways alone. Whoever is
// none is found out when first read from.
func (i *Identity) Listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return listener{l, i}, nil
}

type listener struct {
	net.Listener
	own *Identity
}

// Accept implements [net.Listener].
func (l listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn{tls.Server(raw, l.own.server()), raw.(*net.TCPConn)}, nil
}

// server is how the other side is judged. Every connection is judged anew:
// nothing of an earlier one is taken for proof.
func (i *Identity) server() *tls.Config {
	mine := i.newest()
	return &tls.Config{
		Certificates: []tls.Certificate{mine.cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: mine.roots,
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol != protocol {
				return errors.New("it does not speak the link's protocol")
			}
			return onlyGateways(s.PeerCertificates[0])
		},
	}
}

func onlyGateways(c *x509.Certificate) error {
	if len(c.DNSNames) != 1 {
		return errors.New("certificate of many names")
	}
	name, role, err := roleOf(c.DNSNames[0])
	if err == nil && role != Gateway {
		err = fmt.Errorf("%s is a %s; only gateways open connections", name, role)
	}
	return err
}
