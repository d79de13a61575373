//go:build unix

package handover

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

type offered struct {
	*Offer
	released atomic.Int32
	failed   chan error
	done     chan error
	addr     string
}

// offer listens and offers, until the test ends.
func offer(t *testing.T) *offered {
	t.Helper()
	dir, err := os.MkdirTemp("", "ho")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := &offered{failed: make(chan error, 9), done: make(chan error, 1), addr: l.Addr().String()}
	o.Offer = &Offer{Path: filepath.Join(dir, "s"), Listener: l.(*net.TCPListener), Waits: 10 * time.Second,
		Release: func() error { o.released.Add(1); return nil }, Failed: func(err error) { o.failed <- err }}
	if err := o.Offer.Listen(); err != nil {
		t.Fatal(err)
	}
	go func() { o.done <- o.Serve(ctx) }()
	t.Cleanup(func() { cancel(); l.Close(); os.RemoveAll(dir) })
	return o
}

func anywhere(string) error { return nil }

// The older listens until the newer does: a client that comes in between is
// served by whichever accepts.
func TestListenerIsHandedOver(t *testing.T) {
	o := offer(t)
	var told string
	legacy, err := Ask(o.Path, func(addr string) error { told = addr; return nil })
	if err != nil || told != o.addr || legacy.Listener.Addr().String() != o.addr || o.released.Load() != 1 {
		t.Fatalf("%v, %v; told %s", legacy, err, told)
	}
	waiting, err := net.Dial("tcp", o.addr) // nobody has accepted it yet
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if err := legacy.Serving(); err != nil {
		t.Fatal(err)
	}
	if err := <-o.done; err != nil {
		t.Fatal(err)
	}
	o.Listener.Close()
	go func() {
		c, err := legacy.Listener.Accept()
		if err == nil {
			io.WriteString(c, "the newer")
			c.Close()
		}
	}()
	if got, err := io.ReadAll(waiting); string(got) != "the newer" {
		t.Errorf("%q, %v", got, err)
	}
	legacy.Listener.Close()
}

// A newer process that dies leaves the older serving, and free to be asked again.
func TestOneThatFailsIsFollowedByAnother(t *testing.T) {
	o := offer(t)
	first, err := Ask(o.Path, anywhere)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := <-o.failed; !errors.Is(err, io.EOF) {
		t.Errorf("told %v", err)
	}
	second, err := Ask(o.Path, anywhere)
	if err != nil {
		t.Fatal(err)
	}
	if o.released.Load() != 1 {
		t.Errorf("released %d times", o.released.Load())
	}
	second.Serving()
	if err := <-o.done; err != nil {
		t.Error(err)
	}
	second.Listener.Close()
}

// What does not suit is said before anything is given up.
func TestUnsuitableAddressChangesNothing(t *testing.T) {
	o := offer(t)
	unsuitable := errors.New("another address")
	if _, err := Ask(o.Path, func(string) error { return unsuitable }); !errors.Is(err, unsuitable) {
		t.Errorf("%v", err)
	}
	<-o.failed
	if o.released.Load() != 0 {
		t.Error("it was released nevertheless")
	}
}

func TestStrangersGetNothing(t *testing.T) {
	o := offer(t)
	for _, words := range []string{"GET / HTTP/1.1\n", "loadline takeover 1\ntake\n", "\n", strings.Repeat("x", 1000) + "\n"} {
		c, err := net.Dial("unix", o.Path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, words)
		got, _ := io.ReadAll(c)
		c.Close()
		if strings.Contains(string(got), yours) || o.released.Load() != 0 {
			t.Errorf("%q is answered %q", words, got)
		}
		<-o.failed
	}
}

func TestNobodyToTakeOverFrom(t *testing.T) {
	dir := t.TempDir()
	if l, err := Ask(filepath.Join(dir, "none"), anywhere); l != nil || err != nil {
		t.Errorf("%v, %v", l, err)
	}
	stale, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close() // as a killed process leaves it
	if l, err := Ask(filepath.Join(dir, "s"), anywhere); l != nil || err != nil {
		t.Errorf("%v, %v", l, err)
	}
}
