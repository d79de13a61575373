package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"loadline.dev/loadline/serving"
)

// A Certificate is a chain and its key in two PEM files, read again when they
// change: renewing one needs no restart.
type Certificate struct {
	chain, key string
	log        *slog.Logger

	mu     sync.Mutex
	now    *tls.Certificate
	seen   [2]fileMark // of what now was read from, or failed to be
	looked time.Time
}

// A fileMark tells one state of a file from the next.
type fileMark struct {
	size    int64
	changed time.Time
}

// lookAgain is how long a certificate is used without a look at its files.
const lookAgain = time.Second

// OpenCertificate reads the files named. They must fit each other.
func OpenCertificate(chain, key string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{chain: chain, key: key, log: log}
	c.seen, c.looked = c.marks(), time.Now()
	pair, err := c.read()
	if err != nil {
		return nil, &serving.Error{Op: "read certificate", Subject: chain, Kind: serving.Invalid, Err: err,
			Fix: "give --tls-cert a PEM file with the certificate and those that sign it, and --tls-key its key"}
	}
	c.now = pair
	return c, nil
}

// Config is what a gateway encrypts with.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return c.current(time.Now()), nil
	}}
}

// Expires is when the certificate in use ends.
func (c *Certificate) Expires() time.Time { return c.current(time.Now()).Leaf.NotAfter }

// current is the certificate, read again if its files have changed. What cannot
// be read changes nothing: of two files one is always written first.
func (c *Certificate) current(now time.Time) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) < lookAgain {
		return c.now
	}
	c.looked = now
	marks := c.marks()
	if marks == c.seen {
		return c.now
	}
	c.seen = marks
	pair, err := c.read()
	if err != nil {
		c.log.Warn("the certificate's files changed and cannot be used yet; the one before stays", "certificate", c.chain, "why", err)
		return c.now
	}
	c.now = pair
	c.log.Info("certificate replaced", "certificate", c.chain, "until", pair.Leaf.NotAfter)
	return c.now
}

func (c *Certificate) read() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.chain, c.key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("%s: %w", c.chain, err)
		}
	}
	return &pair, nil
}

func (c *Certificate) marks() (m [2]fileMark) {
	for i, path := range [...]string{c.chain, c.key} {
		info, err := os.Stat(path)
		if err == nil { // what is missing is told by read
			m[i] = fileMark{info.Size(), info.ModTime()}
		}
	}
	return m
}
