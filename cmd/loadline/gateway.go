package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/auth/tokens"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/gateway/feed"
	"loadline.dev/loadline/link/secure"
)

const gatewayListen = "127.0.0.1:1878"

func gatewayCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "gateway --server URL", Short: "Run one more gateway in front of a server's replicas", Args: exactly(),
		Long: `Run one more gateway in front of the replicas of a server (loadline up): it answers invocations by itself, and hands
the rest of the API to the server, so that clients need to know one address only.

It follows the server's routes and tokens, and goes on with those it knows while the server is away. It needs a token
of scope admin, for it sees the tokens of all who call it; the owner's is found by itself on the same machine.

SIGTERM has it finish what it has: connections are answered with "Connection: close" before they end.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.gateway(cmd.Context()) },
	}
	f := cmd.Flags()
	f.String("server", "", "URL of the server (LOADLINE_SERVER)")
	f.String("listen", "", "address (LOADLINE_LISTEN; default "+gatewayListen+")")
	f.String("link-listen", "", "HOST:PORT where the other gateways reach this one (default 127.0.0.1 and any port)")
	f.Bool("insecure-http", false, "let other machines in without encryption")
	f.String("tls-cert", "", "PEM file of a certificate chain: the port then speaks TLS, too (LOADLINE_TLS_CERT)")
	f.String("tls-key", "", "PEM file of its key (LOADLINE_TLS_KEY)")
	return cmd
}

// A door is a gateway in a process of its own.
type door struct {
	follower *feed.Follower
	gateway  *gateway.Gateway
	tokens   tokens.Copy
	metrics  *prometheus.Registry
	identity *secure.Identity
	links    net.Listener
	loopback bool
	log      *slog.Logger
}

func (s *shell) gateway(ctx context.Context) error {
	certificate, err := s.certificate(slog.New(slog.NewTextHandler(s.err, nil)))
	if err != nil {
		return err
	}
	if s.settings.text("server") == "" {
		return usage("--server is missing: the URL of a loadline up")
	}
	s.settings.values["host"] = s.settings.text("server")
	c, err := s.client()
	if err != nil {
		return err
	}
	clear := s.settings.yes("insecure-http")
	l, loopback, err := listen(cmp.Or(s.settings.text("listen"), gatewayListen), clear || certificate != nil)
	if err != nil {
		return err
	}
	defer l.Close()
	signal.Ignore(syscall.SIGPIPE) // whoever reads our talk may leave
	d := &door{loopback: loopback, metrics: prometheus.NewRegistry(), log: slog.New(slog.NewTextHandler(s.err, nil))}
	d.follower = feed.NewFollower()
	d.follower.Server, d.follower.Token, d.follower.Log = c.host, c.token, d.log
	d.follower.Client = &http.Client{Transport: c.https}
	config := gateway.Config{Judge: d.judge, Log: d.log, Metrics: d.metrics, Clear: clear, Dial: d.dial, DialPeer: d.dialPeer}
	if config.API, err = d.handOn(c); err != nil {
		return err
	}
	scheme := "http"
	if certificate != nil {
		config.TLS, scheme = certificate.Config(), "https"
	}
	d.gateway = gateway.New(config)
	defer d.gateway.Close()
	if err := d.arrive(ctx, cmp.Or(s.settings.text("link-listen"), "127.0.0.1:0")); err != nil {
		return err
	}
	defer d.links.Close()
	s.say("loadline %s gateway %s on %s://%s  server %s", version(), d.follower.Self.ID, scheme, l.Addr(), c.host)
	if err := d.run(ctx, l, func() { s.say("ready") }); err != nil {
		return err
	}
	return ended(ctx)
}

// arrive has the server vouch for this gateway, and opens what the others
// reach it by.
func (d *door) arrive(ctx context.Context, addr string) error {
	var id [6]byte
	rand.Read(id[:])
	d.follower.Self.ID = "g" + hex.EncodeToString(id[:])
	d.follower.Router = d.gateway
	d.follower.Keys = func(text []byte) error {
		var shared []tokens.Token
		if err := json.Unmarshal(text, &shared); err != nil {
			return fmt.Errorf("tokens: %w", err)
		}
		d.tokens.Set(shared)
		return nil
	}
	d.follower.Gateways = func(all []feed.Member) { d.gateway.Join(d.follower.Self.ID, peers(all)) }
	if err := d.prove(ctx); err != nil {
		return err
	}
	var err error
	if d.links, err = d.identity.Listen(addr); err != nil {
		return usage("--link-listen: %v", err)
	}
	d.follower.Self.Addr = d.links.Addr().String()
	return nil
}

// prove gets a certificate from the server, or a new one.
func (d *door) prove(ctx context.Context) error {
	request, err := secure.NewRequest()
	if err != nil {
		return err
	}
	text, err := request.Text()
	if err != nil {
		return err
	}
	signed, err := d.follower.Certificate(ctx, text)
	if err != nil {
		return err
	}
	d.identity, err = request.Identity(signed, d.identity)
	return err
}

// keepProven renews the certificate when a third of its time is left.
func (d *door) keepProven(ctx context.Context) {
	for {
		left := time.Until(d.identity.Expires())
		pause := max(left-secure.Life/3, min(left/2, time.Minute), time.Second)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if err := d.prove(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("the link's certificate is not renewed", "expires", d.identity.Expires(), "why", err)
		}
	}
}

// run serves from when all routes are known until ctx ends, then drains.
func (d *door) run(ctx context.Context, l net.Listener, ready func()) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var parts sync.WaitGroup
	defer parts.Wait()
	defer end()
	failed := make(chan error, 2)
	parts.Go(func() {
		if err := d.follower.Run(life); err != nil {
			failed <- err
		}
	})
	parts.Go(func() { d.keepProven(life) })
	parts.Go(func() { d.follower.Deal(life, d.gateway) })
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	case <-d.follower.Synced():
	}
	parts.Go(func() {
		if err := d.gateway.Serve(life, l); err != nil {
			failed <- fmt.Errorf("gateway: %w", err)
		}
	})
	parts.Go(func() {
		if err := d.gateway.ServePeers(d.links); err != nil && life.Err() == nil {
			failed <- fmt.Errorf("links of other gateways: %w", err)
		}
	})
	ready()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	d.depart(ctx)
	return err
}

// depart finishes what is in flight.
func (d *door) depart(ctx context.Context) {
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer cancel()
	if err := d.follower.Leave(drain); err != nil {
		d.log.Info("the server does not hear that this gateway leaves", "why", err)
	}
	if late := d.gateway.Drain(drain); late != nil {
		d.log.Warn("drain", "why", "some requests did not end in time")
	}
}

// judge is what the server would say.
func (d *door) judge(c *gateway.Caller) auth.Verdict {
	who, known := auth.Principal{}, false
	if c.Token != "" {
		who, known = d.tokens.Find(c.Token, time.Now())
	}
	return auth.Door{Loopback: d.loopback}.Judge(auth.Visit{
		Method: c.Method, Path: c.Path, Host: c.Host, Origin: c.Origin, FetchSite: c.FetchSite,
		Token: c.Token != "", Known: known, Caller: who,
	})
}

// dial opens a connection to a replica that is reached over TLS.
func (d *door) dial(ctx context.Context, addr, replica string) (net.Conn, error) {
	return d.identity.Dial(ctx, addr, secure.Replica, replica)
}

// dialPeer opens a connection to another gateway.
func (d *door) dialPeer(ctx context.Context, addr, id string) (net.Conn, error) {
	return d.identity.Dial(ctx, addr, secure.Gateway, id)
}

func peers(all []feed.Member) []gateway.Peer {
	var list []gateway.Peer
	for _, m := range all {
		list = append(list, gateway.Peer{ID: m.ID, Addr: m.Addr})
	}
	return list
}

// handOn answers whether this process is well, and its metrics; everything else
// the server does.
func (d *door) handOn(c *client) (http.Handler, error) {
	server, err := url.Parse(c.host)
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Transport: c.https, FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			// A server that only this machine reaches believes no name of elsewhere.
			if in, _, _ := strings.Cut(r.In.Host, ":"); auth.Loopback(in) || !auth.Loopback(server.Hostname()) {
				r.Out.Host = r.In.Host
			}
			// It was judged here whose page asks; to the server this is no page.
			r.Out.Header.Del("Origin")
			r.Out.Header.Del("Sec-Fetch-Site")
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return
			}
			d.log.Info("the server does not answer", "path", r.URL.Path, "why", err)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			_ = json.NewEncoder(w).Encode(map[string]string{"error_code": "TEMPORARILY_UNAVAILABLE",
				"message": "this gateway serves endpoints, but the server behind it does not answer: " + root(err).Error()})
		},
	}
	metrics := promhttp.HandlerFor(d.metrics, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/livez":
			fmt.Fprintln(w, "ok")
		case "/readyz":
			if !d.gateway.Ready() {
				http.Error(w, "[-] gateway: draining", http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		case "/metrics":
			metrics.ServeHTTP(w, r)
		default:
			proxy.ServeHTTP(w, r)
		}
	}), nil
}

// root is the decisive part of an error of the network.
func root(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Err
	}
	return err
}
