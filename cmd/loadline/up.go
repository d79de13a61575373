package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/internal/sandbox"
)

const defaultListen = "127.0.0.1:1876"

func upCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "up", Short: "Run the whole product on this machine", Args: exactly(),
		Long: `Run the whole product on this machine: API, data plane, control, replicas. Endpoints survive a restart.

On loopback, invocations and health need no token; everything else needs one. The owner's is made at the first
start and lies in the data folder, where the command line of the same user finds it.

Other machines are let in with --tls-cert and --tls-key; both files are read again when they change. HTTP/2 is spoken
to who asks for it. Programs of this machine may do without TLS on the same port.

With --takeover the server that runs on the same data folder hands its port over and finishes what it has.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.up(cmd.Context()) },
	}
	f := cmd.Flags()
	f.String("listen", "", "address (LOADLINE_LISTEN; default "+defaultListen+")")
	f.BoolVar(&s.takeover, "takeover", false, "take over from the server that runs on the data folder, without losing a request; start as usual if none does")
	f.Bool("insecure-http", false, "let other machines in without encryption")
	f.String("link", "", "unix or tls: how gateways reach replicas (default unix; tls proves both sides, as between machines)")
	serverFlags(cmd)
	return cmd
}

func serverFlags(cmd *cobra.Command) {
	cmd.Flags().String("sandbox", "", "auto or require: whether to start where this machine cannot isolate models fully")
	cmd.Flags().String("start-timeout", "", "how long a model may take from start to ready (default 2m; 10m when it is first proven)")
	cmd.Flags().String("request-timeout", "", "how long a replica may work on one request (default 2m)")
	cmd.Flags().String("memory", "", "most memory of one replica, as 2G (default four fifths of the machine's)")
	cmd.Flags().String("tls-cert", "", "PEM file of a certificate chain: the port then speaks TLS, too (LOADLINE_TLS_CERT)")
	cmd.Flags().String("tls-key", "", "PEM file of its key (LOADLINE_TLS_KEY)")
	cmd.Flags().String("uv", "", "the uv program (LOADLINE_UV; default: found, or installed into the data folder)")
}

func (s *shell) up(ctx context.Context) error {
	p, err := s.plan()
	if err != nil {
		return err
	}
	p.state = p.data
	l, loopback, err := s.door(&p)
	if err != nil {
		return err
	}
	defer l.Close()
	if p.legacy != nil {
		defer p.legacy.Close() // does nothing to one that was told
	}
	signal.Ignore(syscall.SIGPIPE) // whoever reads our talk may leave
	srv, err := newServer(ctx, p, loopback)
	if err != nil {
		return err
	}
	defer srv.close()
	s.say("loadline %s on %s://%s  data %s", version(), p.scheme(), l.Addr(), p.data)
	s.say("isolation: %s", holdsLine(sandbox.Probe()))
	s.say("owner's token: cat %s", filepath.Join(p.data, "token"))
	if err := srv.run(ctx, l); err != nil {
		return err
	}
	return ended(ctx)
}

// door is what up listens on: of its own, or that of the server before.
func (s *shell) door(p *plan) (l net.Listener, loopback bool, err error) {
	addr := cmp.Or(s.settings.text("listen"), defaultListen)
	p.replaceable = true
	if !s.takeover {
		return listen(addr, p.clear || p.certificate != nil)
	}
	if loopback, err = reachable(addr, p.clear || p.certificate != nil); err != nil {
		return nil, false, err
	}
	if p.legacy, err = inherit(p.data, addr); err != nil {
		return nil, false, err
	}
	if p.legacy == nil {
		return listen(addr, true)
	}
	return p.legacy.Listener, loopback, nil
}

// plan reads what up and serve have in common.
func (s *shell) plan() (plan, error) {
	data, err := s.data()
	if err != nil {
		return plan{}, err
	}
	p := plan{data: data, uv: s.settings.text("uv"), log: slog.New(slog.NewTextHandler(s.err, nil)), sandbox: true, limits: s.limits(),
		clear: s.settings.yes("insecure-http")}
	if p.certificate, err = s.certificate(p.log); err != nil {
		return plan{}, err
	}
	if p.secured, err = s.onTLS(); err != nil {
		return plan{}, err
	}
	switch mode := s.settings.text("sandbox"); mode {
	case "", "auto":
	case "require":
		if missing := unheld(sandbox.Probe()); len(missing) > 0 {
			return plan{}, &fault{exit: exitFailed, what: "--sandbox require: this machine does not hold " + strings.Join(missing, ", "),
				where: "loadline doctor", fix: "serve trusted models with --sandbox auto, or use a machine where it holds"}
		}
	default:
		return plan{}, usage("--sandbox %q is not known; known are auto, require", mode)
	}
	return p, nil
}

func holds(h sandbox.Holds) []struct {
	name string
	hold sandbox.Hold
} {
	return []struct {
		name string
		hold sandbox.Hold
	}{{"network", h.Network}, {"files", h.Files}, {"processes", h.Processes}, {"memory", h.Memory}}
}

func unheld(h sandbox.Holds) []string {
	var missing []string
	for _, one := range holds(h) {
		if !one.hold.Held {
			missing = append(missing, fmt.Sprintf("%s (%s)", one.name, one.hold.Why))
		}
	}
	return missing
}

// holdsLine says which of the four hold here.
func holdsLine(h sandbox.Holds) string {
	var held []string
	for _, one := range holds(h) {
		if one.hold.Held {
			held = append(held, one.name)
		}
	}
	line := strings.Join(held, ", ") + " hold"
	if len(held) == 0 {
		line = "nothing holds"
	}
	if missing := unheld(h); len(missing) > 0 {
		line += "; not held: " + strings.Join(missing, ", ")
	}
	return line
}

// listen opens the one port, and refuses to be reached by others unless they
// may be, because they encrypt or need not.
func listen(addr string, others bool) (l net.Listener, loopback bool, err error) {
	if loopback, err = reachable(addr, others); err != nil {
		return nil, false, err
	}
	l, err = net.Listen("tcp", addr)
	if err == nil {
		return l, loopback, nil
	}
	f := &fault{exit: exitFailed, what: "listen on " + addr, why: err.Error(), fix: "choose another address"}
	if errors.Is(err, syscall.EADDRINUSE) {
		f.exit, f.why, f.fix = exitConflict, "something listens there already", "end it, or choose another port"
	}
	return nil, false, f
}

// reachable says whether only this machine reaches addr, and refuses one that
// others reach unless they may.
func reachable(addr string, others bool) (loopback bool, err error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, usage("--listen %q is not an address like %s", addr, defaultListen)
	}
	loopback = auth.Loopback(host)
	if !loopback && !others {
		return false, &fault{exit: exitUsage, what: addr + " can be reached from other machines, and nothing would be encrypted",
			fix: "add --tls-cert and --tls-key, listen on 127.0.0.1, or add --insecure-http if a proxy in front encrypts"}
	}
	return loopback, nil
}

// errInterrupted ends a server that Ctrl-C stopped, after it has drained.
var errInterrupted = errors.New("interrupted")

// ended tells Ctrl-C, which is an interruption, from SIGTERM, which is how
// servers are stopped.
func ended(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errInterrupted) {
		return &fault{exit: exitInterrupted}
	}
	return nil
}

// interruptible gives a context that ends with the first SIGINT or SIGTERM; one
// more, a moment later, ends the process at once. (One press of Ctrl-C can
// arrive twice: from the terminal and from a parent that passes it on.)
func interruptible() (ctx context.Context, stop func()) {
	const samePress = time.Second
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it, and is to be left alone
		signal.Notify(signals, syscall.SIGHUP)
	}
	done := make(chan struct{})
	go func() {
		select {
		case sig := <-signals:
			if sig == os.Interrupt {
				cancel(errInterrupted)
			} else {
				cancel(context.Canceled)
			}
		case <-done:
			return
		}
		select {
		case <-time.After(samePress):
			signal.Stop(signals) // the next one has its usual effect
		case <-done:
		}
	}()
	return ctx, func() { signal.Stop(signals); close(done); cancel(nil) }
}
