package link_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"

	"loadline.dev/loadline/link"
)

// One request at a time: what the link costs when nothing can be batched.
func BenchmarkLoneRequest(b *testing.B) {
	body := make([]byte, 200)
	s := link.NewServer(func(_ context.Context, in *link.Incoming) {
		var buf [512]byte
		n := 0
		for err := error(nil); err == nil; {
			var m int
			m, err = in.Read(buf[n:])
			n += m
		}
		in.Reply(&link.Answer{Status: 200, Size: int64(n)})
		in.Write(body[:n])
	}, nil)
	s.SetLine(4)
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(l)
	granted := make(chan int, 100)
	c, err := link.Dial(b.Context(), l.Addr().String(), link.Hooks{Granted: func(n int) {
		select {
		case granted <- n:
		default:
		}
	}})
	if err != nil {
		b.Fatal(err)
	}
	<-granted
	r := &link.Request{Method: "POST", Path: "/invocations", Size: 200, Header: []link.Field{{Name: "Content-Type", Value: "application/json"}}}
	into := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		for c.Places() == 0 {
			<-granted
		}
		st, err := c.Open(r, body, true)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := st.Answer(b.Context()); err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = st.Read(into)
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		st.Close()
	}
	c.Close()
	<-c.Done()
	s.Close()
}
