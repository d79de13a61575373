package secure

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"loadline.dev/loadline/serving"
)

const (
	// Life is how long a certificate is good. It is renewed when a third of that
	// is left, so a server that is away for eight hours is not missed.
	Life = 24 * time.Hour

	// early is how far before its making a certificate is already good: clocks of
	// two machines differ.
	early = time.Hour

	ages = 20 * 365 * 24 * time.Hour // of the authority itself
)

// An Authority vouches for gateways and replicas. Whoever has its key can be
// any of them.
type Authority struct {
	Life time.Duration // of what it issues; zero is a day

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// OpenAuthority reads the authority that is kept at path, or makes one, which
// only its user can read.
func OpenAuthority(path string, now time.Time) (*Authority, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newAuthority(now); err == nil {
			text, err = keep(path, text)
		}
	}
	if err != nil {
		return nil, err
	}
	a, err := parseAuthority(text)
	if err != nil {
		return nil, &serving.Error{Op: "read the link's authority", Subject: path, Kind: serving.Invalid, Err: err,
			Fix: "rm " + path + " # a new one is made at the next start; replicas and gateways have to be started anew then"}
	}
	return a, os.Chmod(path, 0o600)
}

func newAuthority(now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Loadline link authority"}, NotBefore: now.Add(-early), NotAfter: now.Add(ages),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{domain[1:]},
	}
	der, err := sign(c, c, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return encode(key, der)
}

// keep writes text aside and puts it in place, unless somebody was faster: then
// what is there counts.
func keep(path string, text []byte) ([]byte, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".link-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(text); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

func parseAuthority(text []byte) (*Authority, error) {
	key, chain, err := decode(text)
	if err != nil {
		return nil, err
	}
	own, ok := key.(*ecdsa.PrivateKey)
	if !ok || len(chain) != 1 || !chain[0].IsCA || !own.PublicKey.Equal(chain[0].PublicKey) {
		return nil, errors.New("it is no key with its certificate")
	}
	return &Authority{cert: chain[0], key: own}, nil
}

// Credential makes a key for who is called name, and a certificate of it: the
// text of an [Identity]. It is to be renewed at the time returned.
func (a *Authority) Credential(role Role, name string, now time.Time) (text []byte, renew time.Time, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, time.Time{}, err
	}
	der, err := a.issue(role, name, key.Public(), now)
	if err != nil {
		return nil, time.Time{}, err
	}
	text, err = encode(key, der, a.cert.Raw)
	return text, now.Add(a.lifetime() * 2 / 3), err
}

// Sign makes a certificate for who asks by a [Request] that proves its key. The
// name in the request counts for nothing: the caller knows who asks.
func (a *Authority) Sign(role Role, name string, request []byte, now time.Time) ([]byte, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, &serving.Error{Op: "sign certificate", Kind: serving.Invalid, Err: errors.New("there is no request in PEM form")}
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, &serving.Error{Op: "sign certificate", Kind: serving.Invalid, Err: err}
	}
	der, err := a.issue(role, name, r.PublicKey, now)
	if err != nil {
		return nil, err
	}
	return encode(nil, der, a.cert.Raw)
}

func (a *Authority) lifetime() time.Duration {
	if a.Life == 0 {
		return Life
	}
	return a.Life
}

func (a *Authority) issue(role Role, name string, of crypto.PublicKey, now time.Time) ([]byte, error) {
	if !plain(name) {
		return nil, &serving.Error{Op: "sign certificate", Subject: name, Kind: serving.Invalid,
			Err: errors.New("a name is made of a-z, 0-9 and -, and has at most 63 of them")}
	}
	uses := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if role == Gateway {
		uses = append(uses, x509.ExtKeyUsageClientAuth)
	}
	return sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{role.host(name)},
		NotBefore: now.Add(-early), NotAfter: now.Add(a.lifetime()),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: uses, BasicConstraintsValid: true,
	}, a.cert, of, a.key)
}

func sign(c, by *x509.Certificate, of crypto.PublicKey, with *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	c.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, c, by, of, with)
}

// encode writes a key, unless it is nil, and certificates as PEM.
func encode(key *ecdsa.PrivateKey, chain ...[]byte) ([]byte, error) {
	var text bytes.Buffer
	if key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		_ = pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: der}) // a buffer takes everything
	}
	for _, der := range chain {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return text.Bytes(), nil
}

// decode reads what encode wrote. The key is nil where there is none.
func decode(text []byte) (key crypto.PrivateKey, chain []*x509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "CERTIFICATE":
			var c *x509.Certificate
			c, err = x509.ParseCertificate(block.Bytes)
			chain = append(chain, c)
		default:
			err = fmt.Errorf("a %.40q is not expected here", block.Type)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return key, chain, nil
}
