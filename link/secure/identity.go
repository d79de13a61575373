package secure

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// An Identity is a certificate with its key and the authority that vouches for
// the others. It can be replaced while it is in use: connections that are there
// go on, new ones use the new one. It is safe for concurrent use.
type Identity struct {
	current atomic.Pointer[credential]

	path string // where newer ones are put by somebody else; "" is nowhere

	mu   sync.Mutex // guards written, and reading the file
	seen os.FileInfo
}

type credential struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

// NewIdentity holds what [Authority.Credential] made.
func NewIdentity(text []byte) (*Identity, error) {
	i := new(Identity)
	return i, i.Set(text)
}

// OpenIdentity holds what the file at path holds, whatever that becomes.
func OpenIdentity(path string) (*Identity, error) {
	i := &Identity{path: path}
	return i, i.refresh()
}

// Set replaces the identity.
func (i *Identity) Set(text []byte) error {
	key, chain, err := decode(text)
	if err != nil {
		return err
	}
	return i.set(key, chain)
}

func (i *Identity) set(key crypto.PrivateKey, chain []*x509.Certificate) error {
	own, ok := key.(*ecdsa.PrivateKey)
	if !ok || len(chain) != 2 || !own.PublicKey.Equal(chain[0].PublicKey) {
		return errors.New("link identity: want a key, its certificate, and the authority's")
	}
	c := &credential{cert: tls.Certificate{Certificate: [][]byte{chain[0].Raw}, PrivateKey: key, Leaf: chain[0]}, roots: x509.NewCertPool()}
	c.roots.AddCert(chain[1])
	i.current.Store(c)
	return nil
}

// Expires is when the certificate in use ends.
func (i *Identity) Expires() time.Time { return i.current.Load().cert.Leaf.NotAfter }

// newest reads the file again if another was put there. What cannot be read
// changes nothing: the certificate in use is good for hours yet.
func (i *Identity) newest() *credential {
	if i.path != "" {
		_ = i.refresh() // see above
	}
	return i.current.Load()
}

func (i *Identity) refresh() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	info, err := os.Stat(i.path)
	if err != nil {
		return err
	}
	if i.seen != nil && os.SameFile(info, i.seen) && info.ModTime().Equal(i.seen.ModTime()) {
		return nil
	}
	text, err := os.ReadFile(i.path)
	if err == nil {
		err = i.Set(text)
	}
	if err != nil {
		return fmt.Errorf("link identity %s: %w", i.path, err)
	}
	i.seen = info
	return nil
}

// A Request is a key that asks to be vouched for.
type Request struct{ key *ecdsa.PrivateKey }

// NewRequest makes a key. It never leaves this process.
func NewRequest() (*Request, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &Request{key}, err
}

// Text is what [Authority.Sign] is shown.
func (r *Request) Text() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, r.key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), err
}

// Identity joins the key with what [Authority.Sign] answered; into, unless nil,
// takes it over.
func (r *Request) Identity(signed []byte, into *Identity) (*Identity, error) {
	_, chain, err := decode(signed)
	if err != nil {
		return nil, err
	}
	if into == nil {
		into = new(Identity)
	}
	return into, into.set(r.key, chain)
}
