package gateway_test

import (
	"net"
	"runtime"
	"strings"
	"testing"

	"loadline.dev/loadline/gateway"
)

// Between two requests a connection holds no buffer to read into: what it
// keeps for its next request is less than that alone would be.
func TestIdleConnectionHoldsLittle(t *testing.T) {
	const crowd, most = 500, 6 << 10 // bytes of heap; its stack comes on top
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 4, answerSmall).replica()))
	request := []byte(post(iPath, "{}"))
	buf := make([]byte, 4096)
	connect := func() {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := nc.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200 ") {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
	}
	connect() // what all share is made
	before := heap()
	for range crowd {
		connect()
	}
	if each := (heap() - before) / crowd; each > most {
		t.Errorf("each of %d idle connections holds %d bytes, want at most %d", crowd, each, most)
	}
}

// heap is how many bytes are in use, once what is not was collected.
func heap() int64 {
	var m runtime.MemStats
	for range 3 { // a sync.Pool lets go at the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
