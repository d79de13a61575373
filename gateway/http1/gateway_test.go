package http1_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/gateway/http1"
)

// The gateway itself, on a socket, executes of a stream what net/http does, or
// the beginning of it up to what it refuses.
func TestGatewayExecutesNothingThatIsSplitOtherwiseElsewhere(t *testing.T) {
	const seed = 7
	streams := 4000
	if testing.Short() {
		streams = 500
	}
	var mu sync.Mutex
	var ours []http1.Request
	g := gateway.New(gateway.Config{API: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		mu.Lock()
		defer mu.Unlock()
		ours = append(ours, http1.Asked(r, body))
	})})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(context.Background(), l) }()
	defer func() { g.Close(); <-served }()
	dice, split, whole := rand.New(rand.NewPCG(seed, 0)), http1.NewOracle(t), 0
	for i := range streams {
		stream := append(http1.Stream(dice), http1.TheEnd...)
		if !http1.Comparable(stream) {
			continue
		}
		mu.Lock()
		ours = nil
		mu.Unlock()
		answers := play(t, l.Addr().String(), stream, 1+dice.IntN(len(stream)))
		theirs := split(stream)
		mu.Lock()
		n := len(ours)
		if n > len(theirs) || !slices.Equal(ours, theirs[:n]) {
			t.Fatalf("seed %d, stream %d: %q\nhere:  %.1000q\nthere: %.1000q\nanswered %.1000q", seed, i, stream, ours, theirs, answers)
		}
		if n > 0 && n == len(theirs) {
			whole++
		}
		mu.Unlock()
	}
	t.Logf("%d of %d streams executed whole", whole, streams)
	if whole < streams/20 {
		t.Errorf("only %d of %d streams were executed whole: the test compares too little", whole, streams)
	}
}

// play sends a stream in two writes and returns what comes back.
func play(t *testing.T, addr string, stream []byte, cut int) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		nc.Write(stream[:cut])
		nc.Write(stream[cut:])
		nc.(*net.TCPConn).CloseWrite() // what is awaited in vain would be awaited long
	}()
	defer func() { <-sent }()
	all, err := io.ReadAll(nc)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatalf("%q: no end after %q", stream, all)
	}
	return string(all)
}
