package secure_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/link"
	"loadline.dev/loadline/link/secure"
)

func authority(t testing.TB) *secure.Authority {
	t.Helper()
	a, err := secure.OpenAuthority(filepath.Join(t.TempDir(), "ca.pem"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func identity(t testing.TB, a *secure.Authority, role secure.Role, name string, at time.Time) *secure.Identity {
	t.Helper()
	text, _, err := a.Credential(role, name, at)
	if err != nil {
		t.Fatal(err)
	}
	i, err := secure.NewIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// agent serves a link that echoes, as the replica that i is, and says where.
func agent(t testing.TB, i *secure.Identity) string {
	t.Helper()
	l, err := i.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := link.NewServer(func(_ context.Context, in *link.Incoming) {
		_ = in.Reply(&link.Answer{Status: 200, Size: in.Size})
		_, _ = io.Copy(in, in)
	}, nil)
	s.SetLine(4)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// connect opens a link and waits for a place.
func connect(t testing.TB, i *secure.Identity, addr, replica string) (*link.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	nc, err := i.Dial(ctx, addr, secure.Replica, replica)
	if err != nil {
		return nil, err
	}
	granted := make(chan struct{}, 64)
	c, err := link.NewConn(ctx, nc, link.Hooks{Granted: func(int) { granted <- struct{}{} }})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close(); <-c.Done() })
	c.Want(1) // another may hold all places
	<-granted
	return c, nil
}

func echo(t testing.TB, c *link.Conn, body string) string {
	t.Helper()
	s, err := c.Open(&link.Request{Method: "POST", Path: "/", Size: int64(len(body))}, []byte(body), true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Answer(t.Context()); err != nil {
		t.Fatal(err)
	}
	back, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(back)
}

func TestLinkRunsOverTLS(t *testing.T) {
	a := authority(t)
	addr := agent(t, identity(t, a, secure.Replica, "r1", time.Now()))
	c, err := connect(t, identity(t, a, secure.Gateway, "g1", time.Now()), addr, "r1")
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"", "small", strings.Repeat("large ", 30_000)} {
		if got := echo(t, c, body); got != body {
			t.Errorf("%d bytes came back as %d", len(body), len(got))
		}
	}
}

// Neither side speaks to anybody but whom it is meant to speak to.
func TestBothSidesMustProveThemselves(t *testing.T) {
	a, now := authority(t), time.Now()
	addr := agent(t, identity(t, a, secure.Replica, "r1", now))
	stranger := authority(t)
	for sentence, c := range map[string]struct {
		who     *secure.Identity
		replica string
	}{
		"a replica opens connections to nobody":         {identity(t, a, secure.Replica, "r2", now), "r1"},
		"a gateway of another house":                    {identity(t, stranger, secure.Gateway, "g1", now), "r1"},
		"the replica is not the one that was asked for": {identity(t, a, secure.Gateway, "g1", now), "r2"},
		"the gateway's certificate has expired":         {identity(t, a, secure.Gateway, "g1", now.Add(-48*time.Hour)), "r1"},
		"the gateway's certificate is not yet good":     {identity(t, a, secure.Gateway, "g1", now.Add(48*time.Hour)), "r1"},
		"the gateway calls itself what the replica is":  {identity(t, a, secure.Replica, "r1", now), "r1"},
	} {
		t.Run(sentence, func(t *testing.T) {
			if _, err := connect(t, c.who, addr, c.replica); err == nil {
				t.Error("the link was opened")
			}
		})
	}
	for sentence, config := range map[string]*tls.Config{
		"no certificate": {InsecureSkipVerify: true, NextProtos: []string{"loadline-link/1"}},
		"old TLS":        {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
	} {
		t.Run(sentence, func(t *testing.T) {
			c, err := tls.Dial("tcp", addr, config)
			if err == nil {
				_, err = io.ReadAll(c)
				c.Close()
			}
			if err == nil {
				t.Error("it was answered")
			}
		})
	}
	t.Run("no TLS at all", func(t *testing.T) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if c, err := link.NewConn(ctx, nc, link.Hooks{}); err == nil {
			c.Close()
			t.Error("the link was opened")
		}
	})
}

// A certificate that is replaced serves new connections at once, and breaks
// none that are there: not even when the old one has expired.
func TestRenewalBreaksNoConnection(t *testing.T) {
	a, now := authority(t), time.Now()
	path := filepath.Join(t.TempDir(), "link.pem")
	put := func(at time.Time) {
		t.Helper()
		text, _, err := a.Credential(secure.Replica, "r1", at)
		if err == nil {
			err = os.WriteFile(path+".new", text, 0o600)
		}
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(now)
	replica, err := secure.OpenIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	gateway := identity(t, a, secure.Gateway, "g1", now)
	addr := agent(t, replica)
	before, err := connect(t, gateway, addr, "r1")
	if err != nil {
		t.Fatal(err)
	}
	put(now.Add(-48 * time.Hour)) // one that has expired stands for time that has passed
	if _, err := connect(t, gateway, addr, "r1"); err == nil {
		t.Error("an expired certificate was believed")
	}
	put(now)
	if _, err := connect(t, gateway, addr, "r1"); err != nil {
		t.Errorf("after the renewal: %v", err)
	}
	if err := os.WriteFile(path, []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, gateway, addr, "r1"); err != nil {
		t.Errorf("a file that is no identity was believed: %v", err)
	}
	if got := echo(t, before, "still here"); got != "still here" {
		t.Errorf("the connection from before says %q", got)
	}
}

func TestGatewaysKeyNeverLeavesIt(t *testing.T) {
	a, now := authority(t), time.Now()
	addr := agent(t, identity(t, a, secure.Replica, "r1", now))
	r, err := secure.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Text()
	if err != nil || strings.Contains(string(text), "PRIVATE") {
		t.Fatalf("%s, %v", text, err)
	}
	signed, err := a.Sign(secure.Gateway, "g1", text, now)
	if err != nil || strings.Contains(string(signed), "PRIVATE") {
		t.Fatalf("%s, %v", signed, err)
	}
	i, err := r.Identity(signed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, i, addr, "r1"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "g1.replica", "G1", "a b", strings.Repeat("a", 64)} {
		if _, err := a.Sign(secure.Gateway, name, text, now); err == nil {
			t.Errorf("%q got a certificate", name)
		}
	}
	if _, err := a.Sign(secure.Gateway, "g1", []byte("no request"), now); err == nil {
		t.Error("what is no request got a certificate")
	}
}

func TestAuthorityIsKeptForItsUserAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	first, err := secure.OpenAuthority(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	again, err := secure.OpenAuthority(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	addr := agent(t, identity(t, first, secure.Replica, "r1", time.Now()))
	if _, err := connect(t, identity(t, again, secure.Gateway, "g1", time.Now()), addr, "r1"); err != nil {
		t.Errorf("what is kept is another authority: %v", err)
	}
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := secure.OpenAuthority(path, time.Now()); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkTLS is one request after another over TLS, to be held beside that
// over a Unix socket in package link.
func BenchmarkTLS(b *testing.B) {
	a := authority(b)
	addr := agent(b, identity(b, a, secure.Replica, "r1", time.Now()))
	c, err := connect(b, identity(b, a, secure.Gateway, "g1", time.Now()), addr, "r1")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		echo(b, c, "hello")
	}
}
