package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
)

// A request whose bytes never left the gateway may be sent elsewhere; one of
// which the kernel took a byte may have been seen.
func TestWhatNeverLeftIsNotTaken(t *testing.T) {
	for name, tt := range map[string]struct {
		takes int
		taken bool
	}{
		"nothing was written": {0, false},
		"one byte was":        {1, true},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			served := make(chan error, 1)
			go func() {
				in := newReader(far)
				if _, _, err := in.next(); err != nil {
					served <- err
					return
				}
				_, err := far.Write(appendNumbers(appendHello(nil), kindGrant, 0, 1))
				served <- err
			}()
			granted := make(chan int, 1)
			cut := &cutConn{Conn: near}
			c, err := NewConn(t.Context(), cut, Hooks{Granted: func(n int) { granted <- n }})
			if err != nil {
				t.Fatal(err)
			}
			if err := <-served; err != nil {
				t.Fatal(err)
			}
			<-granted
			cut.broken.Store(true)
			cut.takes.Store(int64(tt.takes))
			s, err := c.Open(&Request{Method: "POST", Path: "/invocations", Size: 2}, []byte("{}"), true)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Answer(t.Context())
			if taken := !errors.Is(err, ErrNotTaken); taken != tt.taken {
				t.Errorf("%v: taken %v, want %v", err, taken, tt.taken)
			}
			c.Close()
			<-c.Done()
		})
	}
}

// A cutConn fails once it is broken, after takes bytes.
type cutConn struct {
	net.Conn
	broken atomic.Bool
	takes  atomic.Int64
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.broken.Load() {
		return int(c.takes.Load()), syscall.EPIPE
	}
	return c.Conn.Write(p)
}

// One system call a frame is what a proxy without a link pays too. Whoever is
// ready to append while another flushes shares his write, however many they are.
func TestThoseWhoAreReadyShareAWrite(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // ready, but not running yet
	near, far := net.Pipe()
	defer far.Close()
	c := &countConn{Conn: near}
	s := newSender(c)
	const crowd = 200
	s.others.Store(crowd - 1)
	frame := appendNumbers(nil, kindPing, 0, 7)
	heard := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(far, make([]byte, crowd*len(frame)))
		heard <- err
	}()
	for range crowd {
		go func() { _ = s.commit(append(s.begin(), frame...), true) }()
	}
	if err := <-heard; err != nil {
		t.Fatal(err)
	}
	s.stop(net.ErrClosed)
	// The scheduler may cut a crowd in two where it preempts.
	if n := c.writes.Load(); n > 4 {
		t.Errorf("%d frames took %d writes", crowd, n)
	}
}

type countConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// The answer to a request may come just as it is cancelled: after its end, and
// before its number is forgotten.
func TestAnswerToACancelledRequestIsNoMalformedOne(t *testing.T) {
	c := &Conn{streams: map[uint32]*Stream{}, out: &sender{}}
	c.places.Store(1)
	s, err := c.newStream()
	if err != nil {
		t.Fatal(err)
	}
	s.end(s.id, ErrCancelled)
	frames, err := appendAnswer(nil, s.id, &Answer{Status: 200, Size: 2}, 0)
	if err != nil {
		t.Fatal(err)
	}
	frames = appendData(frames, s.id, []byte("ok"), flagEnd)
	in := newReader(bytes.NewReader(frames))
	if err := in.loop(c.handle); !errors.Is(err, io.EOF) {
		t.Errorf("the connection ended with %v, for all who use it", err)
	}
}
