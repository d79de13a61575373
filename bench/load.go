package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A load is what the load generator measured in one stretch.
type load struct {
	Requests  int
	Errors    int
	Seconds   float64
	P50, P99  float64 // ms; in an open loop from the moment a request was due, without what the machine spoiled
	Raw       float64 // ms; the P99 with it
	Spoiled   float64 // share of the requests that the machine spoiled
	PerSecond float64
}

// A generator sends one request over and over on keep-alive connections from
// one thread. In a closed loop each connection sends again as soon as it was
// answered; in an open loop requests are due at random moments of a given
// rate, drawn from a fixed seed so that every subject gets the same, and wait
// here when no connection is free.
type generator struct {
	request []byte
	events  uint32  // waited for on every connection
	rate    float64 // a second; zero is a closed loop
	epoll   int
	timer   int
	clients []*client
	free    []*client // open loop: longest free first
	due     []int64   // open loop: requests that no connection was free for
	next    int64     // open loop: when the next one is due
	dice    *rand.Rand

	sending  bool
	inFlight int
	took     []taken
	errors   int
}

// A taken is one request: when it was due, and how long its answer then took, in ns.
type taken struct {
	due int64
	ns  int32
}

// A client is one connection.
type client struct {
	fd    int
	since int64 // when its request was due
	buf   []byte
	got   int
	sent  int // of the request
}

// generate is the load generator's process. It says "ready" when it has
// connected and warmed up, measures one stretch when it reads a line, prints
// what it saw, and keeps its connections until its input ends.
func generate(args []string) error {
	f := flag.NewFlagSet("load", flag.ExitOnError)
	port := f.Int("port", 0, "of the subject on 127.0.0.1")
	clients := f.Int("clients", 64, "connections")
	rate := f.Float64("rate", 0, "requests a second; 0 is as fast as they are answered")
	stretch := f.Duration("for", 2*time.Second, "how long")
	warm := f.Duration("warm", 300*time.Millisecond, "how long to warm up")
	size := f.Int("body", 0, "bytes of the body; 0 is the usual question")
	fields := f.String("fields", "", "more `lines` of the head, parted by |")
	_ = f.Parse(args)
	body := question
	if *size > 0 {
		body = `{"inputs": ["` + strings.Repeat("a", max(0, *size-len(`{"inputs": [""]}`))) + `"]}`
	}
	more := ""
	for line := range strings.SplitSeq(*fields, "|") {
		if line != "" {
			more += line + "\r\n"
		}
	}
	runtime.LockOSThread()
	g := &generator{rate: *rate, dice: rand.New(rand.NewPCG(1, 2)), took: make([]taken, 0, 1<<20),
		request: []byte("POST " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n" +
			"Connection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n" + more + "\r\n" + body)}
	g.events = unix.EPOLLIN
	if len(g.request) > 64<<10 { // it may not fit the socket
		g.events |= unix.EPOLLOUT | unix.EPOLLET
	}
	if err := g.connect(*port, *clients); err != nil {
		return err
	}
	if _, err := g.run(*warm); err != nil {
		return err
	}
	fmt.Println("ready")
	line := make([]byte, 1)
	if _, err := os.Stdin.Read(line); err != nil {
		return err
	}
	l, err := g.run(*stretch)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(l); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(line)
	return nil
}

func (g *generator) connect(port, clients int) error {
	var err error
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if g.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return err
	}
	watch := func(fd, index int, events uint32) error {
		return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(index)})
	}
	if err := watch(g.timer, -1, unix.EPOLLIN); err != nil {
		return err
	}
	for i := range clients {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		_ = unix.SetNonblock(fd, true)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err := watch(fd, i, g.events); err != nil {
			return err
		}
		g.clients = append(g.clients, &client{fd: fd, buf: make([]byte, 2<<10), sent: len(g.request)})
	}
	g.free = append(g.free, g.clients...)
	return nil
}

func now() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// run sends for a while and then waits for what is still on its way.
func (g *generator) run(stretch time.Duration) (load, error) {
	g.took, g.errors, g.sending = g.took[:0], 0, true
	witnesses := watch()
	start := now()
	stop := start + int64(stretch)
	if g.rate == 0 {
		for _, c := range g.clients {
			if err := g.send(c, now()); err != nil {
				return load{}, err
			}
		}
	} else {
		g.next = start
		g.schedule()
	}
	events := make([]unix.EpollEvent, 128)
	for g.sending || g.inFlight > 0 {
		n, err := unix.EpollWait(g.epoll, events, 5000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 && g.inFlight > 0 {
			err = errors.New("no answer for 5 s")
		}
		if err != nil {
			return load{}, err
		}
		if now() >= stop {
			g.sending = false
		}
		for _, e := range events[:n] {
			if e.Fd < 0 {
				err = g.fire()
			} else {
				err = g.receive(g.clients[e.Fd])
			}
			if err != nil {
				return load{}, err
			}
		}
	}
	g.due = g.due[:0]
	return g.tell(start, now(), witnesses), nil
}

// tell is what was measured from start to end.
func (g *generator) tell(start, end int64, w *witnesses) load {
	seconds := float64(end-start) / 1e9
	l := load{Requests: len(g.took), Errors: g.errors, Seconds: seconds, PerSecond: float64(len(g.took)) / seconds}
	counts := w.end(start, end)
	var all, some []int32
	for _, t := range g.took {
		all = append(all, t.ns)
		if counts(t.due) {
			some = append(some, t.ns)
		}
	}
	if len(all) == 0 {
		return l
	}
	l.Spoiled = 1 - float64(len(some))/float64(len(all))
	if len(some) == 0 {
		some = slices.Clone(all)
	}
	at := func(took []int32, q float64) float64 {
		return float64(took[min(len(took)-1, int(q*float64(len(took))))]) / 1e6
	}
	slices.Sort(all)
	slices.Sort(some)
	l.P50, l.P99, l.Raw = at(some, .5), at(some, .99), at(all, .99)
	return l
}

// schedule sets the timer to the next moment at which a request is due.
func (g *generator) schedule() {
	g.next += int64(g.dice.ExpFloat64() / g.rate * 1e9)
	at := unix.NsecToTimespec(g.next)
	_ = unix.TimerfdSettime(g.timer, unix.TFD_TIMER_ABSTIME, &unix.ItimerSpec{Value: at}, nil)
}

// fire sends what is due.
func (g *generator) fire() error {
	var expirations [8]byte
	_, _ = unix.Read(g.timer, expirations[:])
	if !g.sending || binary.NativeEndian.Uint64(expirations[:]) == 0 {
		return nil
	}
	for n := now(); g.next <= n; {
		if len(g.free) == 0 {
			g.due = append(g.due, g.next)
		} else {
			c := g.free[0]
			g.free = append(g.free[:0], g.free[1:]...)
			if err := g.send(c, g.next); err != nil {
				return err
			}
		}
		g.schedule()
	}
	return nil
}

func (g *generator) send(c *client, due int64) error {
	c.since, c.got, c.sent = due, 0, 0
	g.inFlight++
	return g.push(c)
}

// push writes what the socket takes of the request.
func (g *generator) push(c *client) error {
	for c.sent < len(g.request) {
		n, err := unix.Write(c.fd, g.request[c.sent:])
		if errors.Is(err, unix.EAGAIN) && g.events&unix.EPOLLOUT != 0 {
			return nil // told when there is room
		}
		if err != nil {
			return err
		}
		c.sent += n
	}
	return nil
}

func (g *generator) receive(c *client) error {
	if err := g.push(c); err != nil {
		return err
	}
	n, err := unix.Read(c.fd, c.buf[c.got:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case n == 0:
		return errors.New("the subject closed a connection")
	}
	c.got += n
	whole, ok, err := answered(c.buf[:c.got])
	if err != nil || !whole {
		return err
	}
	if !ok {
		g.errors++
	}
	g.inFlight--
	g.took = append(g.took, taken{c.since, int32(min(now()-c.since, 1<<31-1))})
	switch {
	case !g.sending:
	case g.rate == 0:
		return g.send(c, now())
	case len(g.due) > 0:
		due := g.due[0]
		g.due = g.due[1:]
		return g.send(c, due)
	}
	if g.rate > 0 {
		g.free = append(g.free, c)
	}
	return nil
}

// answered reports whether b is a whole answer, and whether it is the right one.
func answered(b []byte) (whole, ok bool, err error) {
	head := bytes.Index(b, []byte("\r\n\r\n"))
	if head < 0 {
		return false, false, nil
	}
	for line := range bytes.SplitSeq(b[:head], []byte("\r\n")) {
		if len(line) > 15 && bytes.EqualFold(line[:15], []byte("content-length:")) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(line[15:])))
			if err != nil || n > 4096 {
				return false, false, fmt.Errorf("answer of length %q", line)
			}
			body := b[head+4:]
			return len(body) >= n, bytes.HasPrefix(b, []byte("HTTP/1.1 200")) && string(body) == answer, nil
		}
	}
	return false, false, fmt.Errorf("an answer without a length: %q", b)
}
