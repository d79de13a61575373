package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/serving"
)

func TestHeadsSurviveTheWire(t *testing.T) {
	r := Request{Method: "POST", Path: "/invocations?a=b", Timeout: 1500 * time.Microsecond, Size: -1,
		Header: []Field{{"Content-Type", "application/json"}, {"X-Empty", ""}, {"x-ütf", "ß\x80"}}}
	b, err := appendRequest(nil, 7, &r, []byte("body"), flagEnd)
	if err != nil {
		t.Fatal(err)
	}
	h, err := parseHeader(b)
	if want := (header{len(b) - headerSize, kindOpen, flagEnd, 7}); err != nil || h != want {
		t.Errorf("header %+v, %v; want %+v", h, err, want)
	}
	var got Request
	body, err := parseRequest(b[headerSize:], &got, new([]byte))
	if err != nil || string(body) != "body" || !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, %q, %v; want %+v", got, body, err, r)
	}

	a := Answer{Status: 200, Size: 12, Header: []Field{{"A", "b"}}}
	b, err = appendAnswer(nil, 7, &a, 0)
	if err != nil {
		t.Fatal(err)
	}
	var answer Answer
	if err := parseAnswer(b[headerSize:], &answer, new([]byte)); err != nil || !reflect.DeepEqual(answer, a) {
		t.Errorf("got %+v, %v; want %+v", answer, err, a)
	}

	l := Load{1, 2, 3, 4, 5, serving.Draining, Counters{6, 7, 8, 9, 10, 11, 12, 1 << 63, 13, 14, [...]uint64{15, 16, 17, 18, 19, 20, 21}}, Pressure{22, 23, 24, 25}}
	b = appendLoad(nil, &l)
	var load Load
	if err := parseLoad(append(b[headerSize:], "of a later version"...), &load); err != nil || load != l {
		t.Errorf("got %+v, %v; want %+v", load, err, l)
	}
}

func TestFramesOfAnyCutAreReadWhole(t *testing.T) {
	var wire []byte
	for i := range 50 {
		wire = appendData(wire, uint32(i+1), bytes.Repeat([]byte{byte(i)}, i*i*26), 0)
	}
	for _, cut := range []int{1, 7, 100, 1 << 20} {
		in := newReader(&cutter{bytes.NewReader(wire), cut})
		for i := range 50 {
			h, payload, err := in.next()
			if err != nil || h.stream != uint32(i+1) || !bytes.Equal(payload, bytes.Repeat([]byte{byte(i)}, i*i*26)) {
				t.Fatalf("cut by %d: frame %d came as %+v, %d bytes, %v", cut, i, h, len(payload), err)
			}
		}
		if _, _, err := in.next(); err != io.EOF {
			t.Errorf("after the last frame: %v", err)
		}
	}
}

// cutter gives at most n bytes at a time.
type cutter struct {
	r io.Reader
	n int
}

func (c *cutter) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.n)]) }

func TestMalformedFramesEndTheConnection(t *testing.T) {
	request, _ := appendRequest(nil, 1, &Request{Method: "GET"}, nil, flagEnd)
	for sentence, wire := range map[string][]byte{
		"larger than a frame may be":       {0xff, 0xff, 0xff, 0xff, byte(kindData), 0, 0, 0, 0, 0, 0, 0},
		"reserved bytes":                   {0, 0, 0, 0, byte(kindPing), 0, 1, 0, 0, 0, 0, 0},
		"a kind nobody knows":              begin(nil, 77, 0, 0),
		"a kind of the other side":         appendNumbers(nil, kindGrant, 0, 5),
		"a request on stream 0":            bytes.Replace(bytes.Clone(request), []byte{1, 0, 0, 0}, []byte{0, 0, 0, 0}, 1),
		"two requests on one stream":       append(bytes.Clone(request), request...),
		"a head longer than its payload":   finish(append(begin(nil, kindOpen, 0, 1), 9, 0, 0, 0, 1), 0),
		"more fields than bytes":           finish(append(begin(nil, kindOpen, 0, 1), 5, 0, 0, 0, 0, 0, 0, 0, 200), 0),
		"body after its end":               appendData(bytes.Clone(request), 1, []byte("x"), 0),
		"a return of what nobody recalled": appendNumbers(nil, kindReturn, 0, 2, 2),
		"a window beyond all bounds":       appendNumbers(bytes.Clone(request), kindWindow, 1, 1<<30),
		"an endless number":                finish(append(begin(nil, kindWant, 0, 0), bytes.Repeat([]byte{0xff}, 20)...), 0),
		"a second hello":                   appendHello(nil),
	} {
		t.Run(sentence, func(t *testing.T) {
			s := NewServer(func(ctx context.Context, in *Incoming) { <-ctx.Done() }, nil)
			s.SetLine(4)
			a, b := net.Pipe()
			ended := make(chan error, 1)
			go func() { ended <- s.ServeConn(b) }()
			go io.Copy(io.Discard, a)
			a.Write(append(appendHello(nil), wire...))
			select {
			case err := <-ended:
				if err == nil || errors.Is(err, io.EOF) {
					t.Errorf("ended with %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Error("the connection stays open")
			}
			a.Close()
			s.Close()
		})
	}
}

func TestOptionalFramesOfALaterVersionAreSkipped(t *testing.T) {
	s := NewServer(func(_ context.Context, in *Incoming) { in.Reply(&Answer{Status: 204}) }, nil)
	s.SetLine(1)
	a, b := net.Pipe()
	go s.ServeConn(b)
	hello := appendHello(nil)
	hello[headerSize+4] = 9 // version 9, with something behind it
	hello = finish(append(hello, "more"...), 0)
	request, _ := appendRequest(nil, 1, &Request{Method: "GET"}, nil, flagEnd)
	wire := append(hello, finish(append(begin(nil, optional+3, 9, 77), "news"...), 0)...)
	go a.Write(append(wire, request...))
	in := newReader(a)
	for {
		h, payload, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		if h.kind == kindAnswer {
			var got Answer
			if err := parseAnswer(payload, &got, new([]byte)); err != nil || got.Status != 204 {
				t.Errorf("got %+v, %v", got, err)
			}
			break
		}
	}
	a.Close()
	s.Close()
}

// Whatever bytes come, a side ends the connection or goes on; it never panics
// and never leaves a goroutine behind (the package's goroutine check sees those).
func FuzzFrames(f *testing.F) {
	request, _ := appendRequest(nil, 1, &Request{Method: "GET", Path: "/", Header: []Field{{"A", "b"}}}, []byte("x"), 0)
	answer, _ := appendAnswer(nil, 1, &Answer{Status: 200, Size: 3}, 0)
	f.Add(append(request, appendData(nil, 1, []byte("abc"), flagEnd)...))
	f.Add(append(answer, appendData(nil, 1, []byte("abc"), flagEnd)...))
	f.Add(appendNumbers(appendNumbers(nil, kindWant, 0, 3), kindReturn, 0, 1, 1))
	f.Add(appendNumbers(appendLoad(nil, &Load{State: serving.Ready}), kindRecall, 0, 2))
	f.Add(appendWhy(appendNumbers(nil, kindGrant, 0, 3), kindRefuse, 0, 1, "no"))
	f.Add(appendNumbers(appendNumbers(request, kindWindow, 1, 3), kindCancel, 1))
	f.Add([]byte(strings.Repeat("\x00", 40)))
	f.Fuzz(func(t *testing.T, wire []byte) {
		feedServer(wire)
		feedClient(t, wire)
	})
}

func feedServer(wire []byte) {
	s := NewServer(func(_ context.Context, in *Incoming) {
		b, _ := io.ReadAll(io.LimitReader(in, 10))
		in.Reply(&Answer{Status: 200, Size: -1})
		in.Write(b)
	}, nil)
	s.SetLine(2)
	a, b := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- s.ServeConn(b) }()
	go io.Copy(io.Discard, a)
	a.Write(append(appendHello(nil), wire...))
	a.Close()
	<-ended
	s.Close()
}

func feedClient(t *testing.T, wire []byte) {
	a, b := net.Pipe()
	go io.Copy(io.Discard, b)
	go b.Write(appendNumbers(appendHello(nil), kindGrant, 0, 1))
	granted := make(chan int, 1)
	c, err := NewConn(context.Background(), a, Hooks{Granted: func(n int) {
		select {
		case granted <- n:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	<-granted
	s, err := c.Open(&Request{Method: "GET"}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(wire)
	b.Close()
	<-c.Done()
	io.ReadAll(s)
	s.Close()
}
