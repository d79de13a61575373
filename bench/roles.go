package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	_ "net/http/pprof" // under load, by -pprof
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// What every subject is asked and answers.
const (
	path     = "/serving-endpoints/iris/invocations"
	question = `{"inputs": [[5.1, 3.5, 1.4, 0.2]]}`
	answer   = `{"predictions": [0.25]}`
)

// roles are what this binary is when it starts itself again as a subject or as
// the load generator: every one in a process of its own, so that its CPU time
// is its own too.
var roles = map[string]func(args []string) error{
	"load":     generate,
	"gateway":  bareGateway,
	"agent":    bareAgent,
	"server":   bareServer,
	"fasthttp": fasthttpProxy,
	"reverse":  reverseProxy,
	"ward":     ward,
	"oracle":   oracle,
	"spread":   spreadGateway,
	"bubble":   bubble,
}

// A role's flags.
type roleFlags struct {
	port   int
	to     string // host:port or socket of what is behind
	listen string // socket
}

func readFlags(args []string) roleFlags {
	var r roleFlags
	f := flag.NewFlagSet("role", flag.ExitOnError)
	f.IntVar(&r.port, "port", 0, "to listen on")
	f.StringVar(&r.to, "to", "", "what is behind")
	f.StringVar(&r.listen, "listen", "", "a Unix socket to listen on")
	pprof := f.Int("pprof", 0, "a port for profiles")
	_ = f.Parse(args)
	if *pprof != 0 {
		go func() { _ = http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *pprof), nil) }()
	}
	return r
}

func (r roleFlags) listener() (net.Listener, error) {
	return net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", r.port))
}

// bareGateway is the real gateway with one replica published to it.
func bareGateway(args []string) error {
	r := readFlags(args)
	l, err := r.listener()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	g := gateway.New(gateway.Config{})
	g.Publish(serving.Route{Tenant: "default", Endpoint: "iris", ID: "iris", Generation: 1, Entities: []serving.RouteEntity{{
		Name: "iris", Percent: 100, Replicas: []serving.Replica{{ID: "bare", Addr: r.to, State: serving.Ready}}}}})
	if err := g.Serve(ctx, l); err != nil {
		return err
	}
	return g.Close()
}

// spreadGateway is the real gateway with several replicas, "a,b", and after a
// semicolon those of another endpoint. Told to (SIGUSR1), the first endpoint
// moves to those, as to a new version, and back. After "fifo:" requests wait in
// order of arrival.
func spreadGateway(args []string) error {
	r := readFlags(args)
	l, err := r.listener()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	g := gateway.New(gateway.Config{})
	var versions [][]serving.Replica
	to, fifo := strings.CutPrefix(r.to, "fifo:")
	for group := range strings.SplitSeq(to, ";") {
		var replicas []serving.Replica
		for addr := range strings.SplitSeq(group, ",") {
			replicas = append(replicas, serving.Replica{ID: addr, Addr: addr, State: serving.Ready})
		}
		versions = append(versions, replicas)
	}
	publish := func(name string, generation uint64, replicas []serving.Replica) {
		g.Publish(serving.Route{Tenant: "default", Endpoint: name, ID: name, Generation: generation, Entities: []serving.RouteEntity{{
			Name: name, Percent: 100, FIFO: fifo, Replicas: replicas}}})
	}
	publish("iris", 1, versions[0])
	if len(versions) > 1 {
		publish("other", 1, versions[1])
	}
	move := make(chan os.Signal, 1)
	signal.Notify(move, syscall.SIGUSR1)
	go func() {
		for generation := uint64(2); ; generation++ {
			<-move
			publish("iris", generation, versions[int(generation-1)%len(versions)])
		}
	}()
	if err := g.Serve(ctx, l); err != nil {
		return err
	}
	return g.Close()
}

// bareAgent is the real agent's side of the link with a handler that answers
// by itself, once it has read the request.
func bareAgent(args []string) error {
	r := readFlags(args)
	l, err := net.Listen("unix", r.listen)
	if err != nil {
		return err
	}
	head := &link.Answer{Status: 200, Size: int64(len(answer)), Header: []link.Field{{Name: "Content-Type", Value: "application/json"}}}
	text := []byte(answer)
	s := link.NewServer(func(_ context.Context, in *link.Incoming) {
		var buf [512]byte
		for {
			if _, err := in.Read(buf[:]); err != nil {
				break
			}
		}
		_ = in.Reply(head)
		_, _ = in.Write(text)
	}, nil)
	s.SetLine(256)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { s.Close() })
	return s.Serve(l)
}

// bareServer is what stands behind the rivals.
func bareServer(args []string) error {
	l, err := readFlags(args).listener()
	if err != nil {
		return err
	}
	s := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		_ = ctx.PostBody()
		ctx.SetContentType("application/json")
		ctx.SetBodyString(answer)
	}}
	return s.Serve(l)
}

// fasthttpProxy is the usual quick proxy in Go: pooled HTTP/1.1 behind it.
func fasthttpProxy(args []string) error {
	r := readFlags(args)
	l, err := r.listener()
	if err != nil {
		return err
	}
	behind := &fasthttp.HostClient{Addr: r.to, MaxConns: 1024, MaxIdleConnDuration: time.Minute}
	s := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.Request.Header.Del("Connection")
		if err := behind.Do(&ctx.Request, &ctx.Response); err != nil {
			ctx.Error(err.Error(), fasthttp.StatusBadGateway)
			return
		}
		ctx.Response.Header.Del("Connection")
	}}
	return s.Serve(l)
}

// reverseProxy is the obvious proxy in Go, with idle connections enough.
func reverseProxy(args []string) error {
	r := readFlags(args)
	l, err := r.listener()
	if err != nil {
		return err
	}
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.to})
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost, t.MaxIdleConns = 1024, 1024
	p.Transport = t
	return (&http.Server{Handler: p}).Serve(l)
}

// play runs this process in a role if it was started as one.
func play() {
	if len(os.Args) < 3 || os.Args[1] != "role" {
		return
	}
	run, ok := roles[os.Args[2]]
	if !ok {
		fmt.Fprintln(os.Stderr, "bench: no role", os.Args[2])
		os.Exit(2)
	}
	if err := run(os.Args[3:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", os.Args[2], err)
		os.Exit(1)
	}
	os.Exit(0)
}
