package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// unixPair returns two ends of a Unix socket; the first is owned.
func unixPair(t *testing.T) (*socket, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	s, ok := own(ends[0]).(*socket)
	if !ok {
		t.Fatal("a Unix socket was not taken over")
	}
	t.Cleanup(func() { s.Close(); ends[1].Close() })
	return s, ends[1]
}

func TestWriteWaitsForASlowReaderAndLosesNothing(t *testing.T) {
	s, far := unixPair(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than a socket holds
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Write(want)
		hangUp(s)
		wrote <- err
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes came, %v", len(got), len(want), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

func TestHangUpEndsWhoReadsAndWhoWrites(t *testing.T) {
	s, far := unixPair(t)
	read, wrote := make(chan error, 1), make(chan error, 1)
	go func() { read <- newReader(s).each(func(header, []byte) error { return nil }) }()
	go func() {
		for {
			if _, err := s.Write(make([]byte, 1<<16)); err != nil {
				wrote <- err
				return
			}
		}
	}()
	far.Write(appendNumbers(nil, kindPing, 0, 1)) // somebody is there, and reads nothing
	hangUp(s)
	for what, ended := range map[string]chan error{"reader": read, "writer": wrote} {
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("the %s ended without a reason", what)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("the %s goes on", what)
		}
	}
	s.Close()
	if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// The last bytes and the end may be one event to the reader.
func TestTheEndRightBehindTheLastBytesIsSeen(t *testing.T) {
	for range 300 {
		s, far := unixPair(t)
		read, frames := make(chan error, 1), 0
		go func() { read <- newReader(s).each(func(header, []byte) error { frames++; return nil }) }()
		far.Write(appendNumbers(nil, kindPing, 0, 1))
		far.Close()
		select {
		case err := <-read:
			if err == nil || frames != 1 {
				t.Fatalf("%d frames, then %v", frames, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the reader sleeps over the end")
		}
		s.Close()
	}
}

// Frames that come while others are handled must not be slept over.
func TestFramesThatComeMeanwhileAreRead(t *testing.T) {
	s, far := unixPair(t)
	const frames = 20_000
	seen := make(chan error, 1)
	n := 0
	go func() {
		seen <- newReader(s).each(func(header, []byte) error {
			if n++; n == frames {
				return io.EOF
			}
			return nil
		})
	}()
	for range frames {
		if _, err := far.Write(appendNumbers(nil, kindPing, 0, 1)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-seen:
		if !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the reader sleeps")
	}
}
