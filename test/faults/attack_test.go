package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An attack is what one connection of it does until over ends; it may end sooner.
type attack struct {
	crowd  int
	memory int // KiB that the server may need for it
	do     func(over context.Context, nc net.Conn)
}

const brutePath = "POST /serving-endpoints/brute/invocations HTTP/1.1\r\nHost: 127.0.0.1\r\n"

var attacks = map[string]attack{
	"slow heads": {1000, 64 << 10, func(over context.Context, nc net.Conn) {
		drip(over, nc, brutePath+"X-Slow: "+strings.Repeat("y", 1<<20))
	}},
	"slow bodies": {1000, 96 << 10, func(over context.Context, nc net.Conn) {
		drip(over, nc, brutePath+"Content-Length: 1000000\r\n\r\n"+strings.Repeat("y", 1<<20))
	}},
	"slow chunks": {1000, 96 << 10, func(over context.Context, nc net.Conn) {
		// Engines of this kind read while they are sent to: not the good client's.
		drip(over, nc, strings.Replace(brutePath, "brute", "witness", 1)+"Transfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1\r\ny\r\n", 1<<18))
	}},
	"slow readers": {200, 128 << 10, func(over context.Context, nc net.Conn) {
		_ = nc.(*net.TCPConn).SetReadBuffer(8 << 10) // a flood is another matter
		many := []byte(strings.Repeat("GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 500))
		for {
			nc.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := nc.Write(many); err != nil {
				break // nothing more fits in
			}
		}
		<-over.Done()
	}},
	"idle connections": {8000, 160 << 10, func(over context.Context, _ net.Conn) { <-over.Done() }},
	"body bombs": {4, 200 << 10, func(over context.Context, nc net.Conn) {
		piece := append(append([]byte("10000\r\n"), bytes.Repeat([]byte{'y'}, 1<<16)...), "\r\n"...)
		nc.Write([]byte(strings.Replace(brutePath, "brute", "witness", 1) + "Transfer-Encoding: chunked\r\n\r\n"))
		for over.Err() == nil {
			nc.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := nc.Write(piece); err != nil {
				return // it was told to stop
			}
		}
	}},
	"promises of a terabyte": {50, 64 << 10, func(_ context.Context, nc net.Conn) {
		nc.Write([]byte(brutePath + "Content-Length: 1099511627776\r\n\r\n"))
		nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.Copy(io.Discard, nc)
	}},
}

// drip sends a byte every half second.
func drip(over context.Context, nc net.Conn, text string) {
	begin := strings.IndexByte(text, '\n') + 30
	nc.Write([]byte(text[:begin]))
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for i := begin; i < len(text); i++ {
		select {
		case <-over.Done():
			return
		case <-tick.C:
		}
		if _, err := nc.Write([]byte{text[i]}); err != nil {
			return
		}
	}
}

// wage keeps the attack's crowd connected, until the returned function is called.
func (a attack) wage(t *testing.T, port int) (end func()) {
	t.Helper()
	over, stop := context.WithCancel(context.Background())
	var crowd sync.WaitGroup
	var connected atomic.Int64
	for range a.crowd {
		crowd.Go(func() {
			for first := true; over.Err() == nil; first = false {
				nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err != nil {
					return // the machine has no more sockets: fewer attack
				}
				if first {
					connected.Add(1)
				}
				a.do(over, nc)
				nc.Close()
				select { // whoever is turned away comes again
				case <-over.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	eventually(t, time.Minute, func() error {
		if n := connected.Load(); n < int64(a.crowd) {
			return fmt.Errorf("%d of %d have come", n, a.crowd)
		}
		return nil
	})
	return func() { stop(); crowd.Wait() }
}

// goodClient asks 100 times a second for a while, at times fixed beforehand, and
// returns how long after its time each was answered.
func goodClient(t *testing.T, h *house, during time.Duration) []time.Duration {
	t.Helper()
	const pause = 10 * time.Millisecond
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	n := int(during / pause)
	took := make([]time.Duration, n)
	var all sync.WaitGroup
	begin := time.Now()
	for i := range n {
		due := begin.Add(time.Duration(i) * pause)
		all.Go(func() {
			time.Sleep(time.Until(due))
			a, err := client.Post(h.host()+"/serving-endpoints/brute/invocations", "application/json", strings.NewReader(`{"do": "own"}`))
			if err != nil {
				t.Errorf("a good client: %v", err)
				return
			}
			_, _ = io.Copy(io.Discard, a.Body)
			a.Body.Close()
			if a.StatusCode != 200 {
				t.Errorf("a good client is answered %s", a.Status)
			}
			took[i] = time.Since(due)
		})
	}
	all.Wait()
	slices.Sort(took)
	return took
}

// Slow heads, slow bodies, slow readers, idle connections, body bombs: the good
// client is answered all the while, the server's memory is bounded, and whoever
// attacked leaves nothing behind.
func TestAttackersHoldNobodyUp(t *testing.T) {
	need(t)
	h := ownHouse(t)
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	h.must(t, "deploy", "brute", model("brute"), "--command", brute, "--health", "/")
	h.must(t, "deploy", "witness", model("brute"), "--command", brute, "--health", "/")
	const during = 1500 * time.Millisecond
	goodClient(t, h, during/3) // warms up
	calm := goodClient(t, h, during)
	t.Logf("%-24s p50 %v, p99 %v, memory %d MiB", "calm", calm[len(calm)/2], calm[len(calm)*99/100], resident(t, h)>>10)
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			files, before := descriptors(h), resident(t, h)
			end := a.wage(t, h.port)
			took := goodClient(t, h, during)
			after := resident(t, h)
			end()
			p99 := took[len(took)*99/100]
			t.Logf("p50 %v, p99 %v (%.1f times calm), memory %+d KiB (%d a connection)", took[len(took)/2], p99,
				float64(p99)/float64(calm[len(calm)*99/100]), after-before, (after-before)/a.crowd)
			if p99 > 10*time.Second { // the figures are for people; this machine may be busy
				t.Errorf("a good client waits %v", p99)
			}
			if after-before > a.memory {
				t.Errorf("the server took %d KiB, and may take %d", after-before, a.memory)
			}
			eventually(t, time.Minute, func() error {
				if now := descriptors(h); now > files+100 { // what the good client left idle
					return fmt.Errorf("%d descriptors are open, before it were %d", now, files)
				}
				return nil
			})
		})
	}
}

// resident is the server's memory in KiB.
func resident(t *testing.T, h *house) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", h.server.PID))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize() >> 10
}

func descriptors(h *house) int {
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.server.PID))
	return len(list)
}
