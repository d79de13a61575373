package gateway_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
)

var small = []byte(`{"predictions": [0.25]}`)

// answerSmall is an engine that costs nearly nothing.
func answerSmall(_ context.Context, in *link.Incoming) {
	var buf [256]byte
	for {
		if _, err := in.Read(buf[:]); err != nil {
			break
		}
	}
	in.Reply(&link.Answer{Status: 200, Size: int64(len(small)), Header: []link.Field{{Name: "Content-Type", Value: "application/json"}}})
	in.Write(small)
}

func benchGateway(b *testing.B, c gateway.Config) (*gateway.Gateway, string) {
	g := gateway.New(c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() { g.Serve(context.Background(), l); close(done) }()
	b.Cleanup(func() { g.Close(); <-done })
	return g, l.Addr().String()
}

// BenchmarkPath is the whole way there and back, client and agent included, on
// keep-alive connections.
func BenchmarkPath(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(map[int]string{1: "one", 64: "many"}[clients], func(b *testing.B) {
			g, addr := benchGateway(b, gateway.Config{})
			g.Publish(iris(startAgent(b, "r", 128, answerSmall).replica()))
			request := []byte(post(iPath, `{"inputs": [[1, 2, 3, 4]]}`, "User-Agent: python-requests/2.32", "Accept: */*"))
			b.ReportAllocs()
			b.ResetTimer()
			var crowd sync.WaitGroup
			for i := range clients {
				n := b.N / clients
				if i == 0 {
					n += b.N % clients
				}
				crowd.Go(func() { pound(b, addr, request, n) })
			}
			crowd.Wait()
		})
	}
}

// pound sends the same request n times, reading each answer.
func pound(b *testing.B, addr string, request []byte, n int) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return
	}
	defer nc.Close()
	buf := make([]byte, 4096)
	for range n {
		nc.Write(request)
		got, err := nc.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:min(got, 12)]), "HTTP/1.1 200") {
			b.Errorf("%q, %v", buf[:got], err)
			return
		}
	}
}
