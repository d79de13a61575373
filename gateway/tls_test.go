package gateway_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/gateway"
)

// writeCertificate writes a certificate for this machine, signed by itself.
func writeCertificate(t testing.TB, dir, name string) (chain, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	chain, key = filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{chain: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return chain, key
}

// encrypted adds TLS to what start is given, and returns what trusts it.
func encrypted(t testing.TB, c gateway.Config) (gateway.Config, *tls.Config) {
	t.Helper()
	chain, key := writeCertificate(t, t.TempDir(), "one")
	certificate, err := gateway.OpenCertificate(chain, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.TLS = certificate.Config()
	pool := x509.NewCertPool()
	data, _ := os.ReadFile(chain)
	pool.AppendCertsFromPEM(data)
	return c, &tls.Config{RootCAs: pool}
}

func dialTLS(t *testing.T, addr string, c *tls.Config) *tls.Conn {
	t.Helper()
	nc, err := tls.Dial("tcp", addr, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	return nc
}

// One port answers both who encrypts and, of this machine, who does not; the
// judge knows which is which.
func TestTLSAndPlainShareAPort(t *testing.T) {
	secure := make(chan bool, 9)
	c, trust := encrypted(t, gateway.Config{Judge: func(who *gateway.Caller) auth.Verdict {
		secure <- who.Secure
		return auth.Verdict{Caller: auth.Anonymous}
	}})
	g, addr := start(t, c)
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	for range 2 {
		if got := talk(t, addr, post(iPath, "plain", last)); !strings.HasSuffix(got, "\r\n\r\nplain") || <-secure {
			t.Errorf("in the clear: %q", got)
		}
		nc := dialTLS(t, addr, trust)
		in := bufio.NewReader(nc)
		for _, body := range []string{"one", strings.Repeat("two", 100_000)} { // the connection serves on
			go io.WriteString(nc, post(iPath, body))
			a, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(a.Body); string(got) != body || err != nil || !<-secure {
				t.Errorf("encrypted: %.100q, %v", got, err)
			}
		}
	}
}

// A stray byte before the hello, or a hello that is none, ends the connection
// and nothing else.
func TestBrokenHandshakes(t *testing.T) {
	c, trust := encrypted(t, gateway.Config{Patience: gateway.Patience{Head: 200 * time.Millisecond}})
	g, addr := start(t, c)
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	for sentence, raw := range map[string]string{
		"no more than the first byte": "\x16",
		"a record that never ends":    "\x16\x03\x01\x02\x00\x01\x00",
		"junk":                        "\x16" + strings.Repeat("junk", 500),
		"an old protocol":             "\x16\x03\x00\x00\x2f\x01\x00\x00\x2b\x03\x00" + strings.Repeat("\x00", 40),
	} {
		started := time.Now()
		got := talk(t, addr, raw)
		if took := time.Since(started); strings.Contains(got, "HTTP") || took > 5*time.Second {
			t.Errorf("%s: %q after %v", sentence, got, took)
		}
	}
	if _, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: trust.RootCAs, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_refused_total") == 5 }) // the last may still be at it
	nc := dialTLS(t, addr, trust)
	io.WriteString(nc, post(iPath, "well", last))
	if all, err := io.ReadAll(nc); !strings.HasSuffix(string(all), "well") || err != nil {
		t.Errorf("%q, %v", all, err)
	}
}

// Without a certificate a hello is answered with one line that says why.
func TestHelloWithoutACertificate(t *testing.T) {
	_, addr := start(t, gateway.Config{})
	if got := talk(t, addr, "\x16\x03\x01\x02\x00\x01\x00"); got != "this port speaks plain HTTP, not TLS\n" {
		t.Errorf("got %q", got)
	}
}

// A machine elsewhere must encrypt, unless that was waived.
func TestOtherMachinesMustEncrypt(t *testing.T) {
	for clear, want := range map[bool]string{false: "HTTP/1.1 400 ", true: "HTTP/1.1 404 "} {
		c, _ := encrypted(t, gateway.Config{Clear: clear})
		g := gateway.New(c)
		here, there := net.Pipe()
		l := &oneConn{conn: make(chan net.Conn, 1), over: make(chan struct{})}
		l.conn <- elsewhere{there}
		served := make(chan error, 1)
		go func() { served <- g.Serve(context.Background(), l) }()
		go io.WriteString(here, post("/serving-endpoints/none/invocations", "{}", last))
		got, _ := io.ReadAll(here)
		if !strings.HasPrefix(string(got), want) {
			t.Errorf("clear %v: %q", clear, got)
		}
		if !clear && !strings.Contains(string(got), "use https") {
			t.Errorf("it is not said how: %q", got)
		}
		g.Close()
		<-served
	}
}

// An elsewhere is a connection that seems to come from another machine.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5} }

type oneConn struct {
	conn chan net.Conn
	over chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error {
	select {
	case <-l.over:
	default:
		close(l.over)
	}
	return nil
}
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// A certificate is replaced when both of its files are, and not before.
func TestCertificateIsReplacedWithoutARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		chain, key := writeCertificate(t, dir, "one")
		certificate, err := gateway.OpenCertificate(chain, key, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		handshake := certificate.Config().GetCertificate
		expect := func(want string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			if c, err := handshake(nil); err != nil || c.Leaf.Subject.CommonName != want {
				t.Fatalf("%v, %v; want %s", c.Leaf.Subject, err, want)
			}
		}
		expect("one")
		keyOfOne, _ := os.ReadFile(key)
		writeCertificate(t, dir, "second")
		keyOfTwo, _ := os.ReadFile(key)
		os.WriteFile(key, keyOfOne, 0o600) // half of it, as renewal leaves it for a moment
		expect("one")
		os.Remove(key)
		expect("one")
		os.WriteFile(key, keyOfTwo, 0o600)
		expect("second")
		if left := time.Until(certificate.Expires()); left <= 0 || left > time.Hour {
			t.Errorf("it ends in %v", left)
		}
	})
}

func TestCertificatesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	chain, key := writeCertificate(t, dir, "one")
	other, _ := writeCertificate(t, t.TempDir(), "other")
	for sentence, files := range map[string][2]string{
		"no file":        {filepath.Join(dir, "none"), key},
		"another's":      {other, key},
		"exchanged":      {key, chain},
		"a folder, even": {dir, key},
	} {
		if _, err := gateway.OpenCertificate(files[0], files[1], slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: accepted", sentence)
		}
	}
}

// A client that leaves is noticed through TLS within the same time.
func TestLeavingIsNoticedThroughTLS(t *testing.T) {
	c, trust := encrypted(t, gateway.Config{})
	g, addr := start(t, c)
	began, gone := make(chan string, 9), make(chan string, 9)
	g.Publish(iris(startAgent(t, "r", 1, hold(began, gone, nil)).replica()))
	nc := dialTLS(t, addr, trust)
	io.WriteString(nc, post(iPath, "runs"))
	<-began
	nc.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("nobody noticed that the client has left")
	}
}
