package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/rest"
)

func serveCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve MODEL", Short: "Serve one model in the foreground", Args: exactly("MODEL"),
		Long: `Serve one model in the foreground: a drop-in for "mlflow models serve". It answers /invocations, /ping, /health and
/version at the root, and everything that "up" answers besides. Ctrl-C drains and stops.`,
		Example: `  loadline serve ./model
  loadline serve models:/iris@champion --port 5001`,
		RunE: func(cmd *cobra.Command, args []string) error { return s.serve(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.String("port", "", "port on this machine (default 1876; 0 is any)")
	f.String("name", "", "the endpoint's name (default: the model's)")
	f.String("engine", "", "auto, python, native, mlflow")
	f.Bool("strict", false, "refuse with 400 whatever MLflow would alter silently")
	f.Bool("egress", false, "let the model open connections; without it, it reaches nobody")
	f.StringArray("env", nil, "K=V, an environment variable of the model; may be repeated")
	f.Duration("timeout", 20*time.Minute, "how long it may take until it is ready")
	serverFlags(cmd)
	return cmd
}

func (s *shell) serve(cmd *cobra.Command, arg string) error {
	model, err := modelArgument(arg, true)
	if err != nil {
		return err
	}
	name, err := serveName(cmd, model)
	if err != nil {
		return err
	}
	p, err := s.plan()
	if err != nil {
		return err
	}
	l, _, err := listen("127.0.0.1:"+cmp.Or(s.settings.text("port"), "1876"), false)
	if err != nil {
		return err
	}
	defer l.Close()
	s.decided(name, model, p.scheme()+"://"+l.Addr().String(), s.settings.text("engine"))

	// Its wishes live as long as the process; models and environments are shared.
	p.state = filepath.Join(p.data, "serve", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	p.root, p.fresh = name, true
	p.log = slog.New(slog.NewTextHandler(s.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	signal.Ignore(syscall.SIGPIPE)
	srv, err := newServer(cmd.Context(), p, true)
	if err != nil {
		return err
	}
	defer os.RemoveAll(p.state)
	defer srv.close()
	return s.serveUntil(cmd, srv, l, name, model)
}

// serveUntil runs the server beside the deployment of its one model.
func (s *shell) serveUntil(cmd *cobra.Command, srv *server, l net.Listener, name, model string) error {
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	running := make(chan error, 1)
	go func() { running <- srv.run(ctx, l) }()

	token, err := os.ReadFile(filepath.Join(srv.data, "token"))
	if err == nil {
		c := &client{host: "http://" + l.Addr().String(), token: strings.TrimSpace(string(token))}
		err = s.deployAndShow(cmd, c, name, model)
	}
	if err != nil {
		stop()
		<-running //nolint:errcheck // the first failure is the one to tell
		return err
	}
	if err := <-running; err != nil {
		return err
	}
	s.say("%s is stopped", name)
	return ended(cmd.Context())
}

func (s *shell) deployAndShow(cmd *cobra.Command, c *client, name, model string) error {
	order, err := s.serveOrder(cmd, model)
	if err != nil {
		return err
	}
	var v rest.View
	if err := c.do(cmd.Context(), "PUT", at(name), order, &v); err != nil {
		return err
	}
	timeout, _ := cmd.Flags().GetDuration("timeout")
	if v, err = s.follow(cmd.Context(), c, v, timeout); err != nil {
		return err
	}
	for _, e := range v.Entities {
		s.say("%s is ready: %s", name, e.Why)
	}
	return s.showCurl(cmd.Context(), c, name)
}

func (s *shell) serveOrder(cmd *cobra.Command, model string) (map[string]any, error) {
	order := map[string]any{"model": model}
	if engine := s.settings.text("engine"); engine != "" {
		order["engine"] = engine
	}
	for _, name := range []string{"strict", "egress"} {
		if on, _ := cmd.Flags().GetBool(name); on {
			order[name] = true
		}
	}
	env, err := variables(cmd)
	if len(env) > 0 {
		order["env"] = env
	}
	return order, err
}

// serveName is the endpoint's name: as asked for, or the model's made valid.
func serveName(cmd *cobra.Command, model string) (string, error) {
	if name, _ := cmd.Flags().GetString("name"); name != "" {
		return name, nil
	}
	name := rest.Lineage(model)
	if name == model {
		name = rest.DefaultName(model, "")
	}
	name = strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, name), "-_")
	if name == "" {
		name = "model"
	}
	return name[:min(len(name), 63)], nil
}

// decided prints at once what is known of the way ahead.
func (s *shell) decided(name, model, host, engine string) {
	s.say("serving %s as %s on %s", model, name, host)
	data, err := os.ReadFile(filepath.Join(model, "MLmodel"))
	if err != nil {
		s.say("engine %s; the model is not on this machine yet", cmp.Or(engine, "auto"))
		return
	}
	m, err := mlmodel.Parse(data)
	if err != nil || m.PyFunc == nil {
		return // preparation says what is wrong with it
	}
	how := "engine python (our worker in the model's own environment)"
	if engine != "" && engine != "auto" {
		how = "engine " + engine + ", as asked"
	}
	s.say("%s, %s, python %s, saved by mlflow %s", how, m.PyFunc.LoaderModule, cmp.Or(m.PyFunc.PythonVersion, "unknown"), cmp.Or(m.MLflowVersion, "unknown"))
}

// longest is how long a body may be that is shown within a command line.
const longest = 600

// showCurl prints a command that works when pasted: with the model's own example.
func (s *shell) showCurl(ctx context.Context, c *client, name string) error {
	body, kind := `{"inputs": []}`, "application/json"
	resp, err := c.open(ctx, "GET", at(name, "example"), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		body, kind = compactJSON(data), resp.Header.Get("Content-Type")
	} else {
		s.say("the model was saved without an example; put your rows in the body:")
	}
	data := quote(body)
	if len(body) > longest {
		path := filepath.Join(os.TempDir(), "loadline-"+name+"-example.json")
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			return fmt.Errorf("write example: %w", err)
		}
		data = quote("@" + path)
	}
	s.say("try:")
	_, err = fmt.Fprintf(s.out, "curl -s %s/invocations -H 'Content-Type: %s' -d %s\n", c.host, kind, data)
	return err
}

func compactJSON(data []byte) string {
	var raw json.RawMessage
	if json.Unmarshal(data, &raw) != nil {
		return string(data)
	}
	text, err := json.Marshal(raw)
	if err != nil {
		return string(data)
	}
	return string(text)
}

// quote makes text one word for a POSIX shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
