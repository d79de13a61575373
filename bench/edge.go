package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/agent/upstream"
	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/auth/tokens"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

func init() {
	roles["edge"], roles["crew"], roles["agent-full"], roles["reader"] = edge, crew, fullAgent, readingServer
}

// Files in the folder of a full gateway.
const secretFile = "secret" // the token that clients show

// edge is the real gateway: with -full, as the product sets it up, with tokens
// looked up in its book, a rate limit, and metrics that are collected.
func edge(args []string) error {
	f := flag.NewFlagSet("edge", flag.ExitOnError)
	port := f.Int("port", 0, "to listen on")
	to := f.String("to", "", "the agent's `socket`; with -replicas, the beginning of its name")
	endpoints := f.Int("endpoints", 1, "in the table; one of them is asked")
	replicas := f.Int("replicas", 1, "of the endpoint that is asked")
	full := f.String("full", "", "`folder` for tokens: everything that the product does")
	_ = f.Parse(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var config gateway.Config
	asked := serving.Route{Tenant: "default", Endpoint: "iris", ID: "iris", Generation: 1,
		Entities: []serving.RouteEntity{{Name: "iris", Percent: 100}}}
	if *full != "" {
		judge, err := judge(ctx, *full)
		if err != nil {
			return err
		}
		config.Judge, config.Metrics = judge, prometheus.NewRegistry()
		// Never reached, but counted.
		asked.Quota.Rates = []serving.Rate{{Calls: 60_000_000, Period: time.Minute, Per: serving.PerToken}}
	}
	g := gateway.New(config)
	for i := range *endpoints - 1 {
		name := fmt.Sprintf("other-%d", i)
		g.Publish(serving.Route{Tenant: "default", Endpoint: name, ID: name, Generation: 1,
			Entities: []serving.RouteEntity{{Name: name, Percent: 100}}})
	}
	for i := range *replicas {
		addr := *to
		if *replicas > 1 {
			addr += fmt.Sprint(".", i)
		}
		asked.Entities[0].Replicas = append(asked.Entities[0].Replicas,
			serving.Replica{ID: fmt.Sprint("r", i), Addr: addr, State: serving.Ready})
	}
	g.Publish(asked)
	runtime.GC() // what publishing ten thousand left behind is not a request's
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		return err
	}
	if err := g.Serve(ctx, l); err != nil {
		return err
	}
	return g.Close()
}

// judge asks a book of tokens and the door that stands on a loopback address,
// as the command does.
func judge(ctx context.Context, dir string) (func(*gateway.Caller) auth.Verdict, error) {
	book, err := tokens.Open(ctx, drawer(dir), filepath.Join(dir, "owner"), time.Now)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, secretFile)); err != nil {
		secret, _, err := book.Create(ctx, "bench", auth.Query, 0)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, secretFile), []byte(secret), 0o600); err != nil {
			return nil, err
		}
	}
	return func(c *gateway.Caller) auth.Verdict {
		who, known := auth.Principal{}, false
		if c.Token != "" {
			who, known = book.Find(c.Token)
		}
		return auth.Door{}.Judge(auth.Visit{Method: c.Method, Path: c.Path, Host: c.Host, Origin: c.Origin, FetchSite: c.FetchSite,
			Token: c.Token != "", Known: known, Caller: who})
	}, nil
}

// A drawer keeps a book's tokens as files of a folder.
type drawer string

func (d drawer) file(key string) string {
	return filepath.Join(string(d), "token-"+url.PathEscape(key))
}

func (d drawer) Get(_ context.Context, key string) ([]byte, error) { return os.ReadFile(d.file(key)) }

func (d drawer) Put(_ context.Context, key string, value []byte) error {
	return os.WriteFile(d.file(key), value, 0o600)
}

func (d drawer) Delete(_ context.Context, key string) error { return os.Remove(d.file(key)) }

func (d drawer) Keys(context.Context, string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(string(d), "token-*"))
	for i, f := range files {
		if files[i], err = url.PathUnescape(strings.TrimPrefix(filepath.Base(f), "token-")); err != nil {
			return nil, err
		}
	}
	return files, err
}

// crew is many bare agents in one process, each on a socket of its own.
func crew(args []string) error {
	f := flag.NewFlagSet("crew", flag.ExitOnError)
	listen := f.String("listen", "", "the beginning of the sockets' names")
	n := f.Int("n", 1, "how many")
	_ = f.Parse(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var all sync.WaitGroup
	for i := range *n {
		name := *listen
		if *n > 1 {
			name += fmt.Sprint(".", i)
		}
		l, err := net.Listen("unix", name)
		if err != nil {
			return err
		}
		s := link.NewServer(answerItself, nil)
		s.SetLine(max(2, 1024 / *n))
		context.AfterFunc(ctx, func() { s.Close() })
		all.Go(func() { _ = s.Serve(l) })
	}
	all.Wait()
	return nil
}

var (
	answerHead = &link.Answer{Status: 200, Size: int64(len(answer)), Header: []link.Field{{Name: "Content-Type", Value: "application/json"}}}
	answerText = []byte(answer)
	manyBytes  = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
)

// answerItself reads the request, of any size, and answers.
func answerItself(_ context.Context, in *link.Incoming) {
	buf := manyBytes.Get().(*[]byte)
	defer manyBytes.Put(buf)
	for {
		if _, err := in.Read(*buf); err != nil {
			break
		}
	}
	_ = in.Reply(answerHead)
	_, _ = in.Write(answerText)
}

// readingServer reads the whole of what it is asked, piece by piece, and answers.
func readingServer(args []string) error {
	l, err := readFlags(args).listener()
	if err != nil {
		return err
	}
	s := &fasthttp.Server{StreamRequestBody: true, MaxRequestBodySize: 64 << 20, Handler: func(ctx *fasthttp.RequestCtx) {
		if body := ctx.RequestBodyStream(); body != nil {
			buf := manyBytes.Get().(*[]byte)
			defer manyBytes.Put(buf)
			for {
				if _, err := body.Read(*buf); err != nil {
					break
				}
			}
		}
		ctx.SetContentType("application/json")
		ctx.SetBodyString(answer)
	}}
	return s.Serve(l)
}

// fullAgent is the real agent: with an engine that answers by itself or, with
// -engine, one in a process of its own, which is nginx.
func fullAgent(args []string) error {
	f := flag.NewFlagSet("agent-full", flag.ExitOnError)
	dir := f.String("dir", "", "the replica's `folder`")
	apart := f.Bool("engine", false, "in a process of its own")
	_ = f.Parse(args)
	a := serving.Assignment{Replica: "bench", Endpoint: "iris", Revision: serving.Revision{Digest: "bench"}, Recipe: serving.Recipe{
		Launch: serving.Launch{Protocol: serving.HTTP, Raw: true, Argv: []string{"/usr/sbin/nginx"}}, Limits: serving.Limits{Concurrency: 256}}}
	data, err := json.Marshal(a)
	if err == nil {
		err = os.WriteFile(filepath.Join(*dir, "spec.json"), data, 0o600)
	}
	if err != nil {
		return err
	}
	ctx, drain, stop := agent.Signals(context.Background())
	defer stop()
	return agent.Run(ctx, agent.Options{Dir: *dir, Drain: drain, Log: slog.New(slog.DiscardHandler), Engine: func(*agent.Launch) agent.Engine {
		if !*apart {
			return nothing{done: make(chan struct{})}
		}
		return upstream.New(upstream.Config{Raw: true, Health: path, Command: func(port int) (*exec.Cmd, error) {
			conf := filepath.Join(*dir, "conf")
			if err := os.WriteFile(conf, []byte(nginxConf(port, 0, *dir)), 0o600); err != nil {
				return nil, err
			}
			return exec.Command("/usr/sbin/nginx", "-c", conf, "-p", *dir), nil
		}})
	}})
}

// nothing is an engine without a process and without work.
type nothing struct{ done chan struct{} }

func (nothing) Start(context.Context) error { return nil }

func (nothing) Do(_ context.Context, r *agent.Request, w agent.Answerer) error {
	buf := manyBytes.Get().(*[]byte)
	defer manyBytes.Put(buf)
	for {
		_, err := r.Body.Read(*buf)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := w.Head(200, answerHead.Header, answerHead.Size); err != nil {
		return err
	}
	_, err := w.Write(answerText)
	return err
}

func (n nothing) Done() <-chan struct{} { return n.done }
func (nothing) Stop(time.Duration)      {}
func (nothing) PID() int                { return os.Getpid() }
