package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/rest"
	"loadline.dev/loadline/serving"
)

func deployCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deploy NAME [MODEL]",
		Short: "Create an endpoint, or update it in place",
		Long: `Create an endpoint, or update it in place. The new version is ready, its own example answered, before traffic
moves; until then, and if it fails, what served before goes on serving.

An update keeps the scale and the limits that are not mentioned (--min, --max, --rate-limit, …); all else is as this
command says.

The autopilot decides between --min and --max how many replicas there are, by what is asked for and by how much one
replica can carry, which it learns. With --min 0 an endpoint that nobody calls sleeps; the next request wakes it and
is answered. "loadline explain NAME" says what it did and why.

A --command runs in a sandbox, in a folder of its own. It may read MODEL (at $MODEL_DIR) and whatever files and
folders it names by absolute paths, and listens on $PORT of 127.0.0.1.`,
		Example: `  loadline deploy iris models:/iris@champion
  loadline deploy iris ./model --traffic 10        beside what is there, with 10 % of the traffic
  loadline deploy echo --command 'python3 -m http.server $PORT' --health /`,
		Args: func(cmd *cobra.Command, args []string) error {
			command, _ := cmd.Flags().GetString("command")
			health, _ := cmd.Flags().GetString("health")
			engine, _ := cmd.Flags().GetString("engine")
			switch {
			case len(args) == 0:
				return usage("NAME is missing")
			case len(args) == 1 && command == "":
				return usage("MODEL is missing")
			case len(args) > 2:
				return usage("%q is one argument too many", args[2])
			case command != "" && !strings.HasPrefix(health, "/"):
				return usage("--command needs --health: a path, like /health, that answers 2xx once it is ready")
			case command == "" && health != "":
				return usage("--health goes with --command")
			case command != "" && engine != "" && engine != "custom":
				return usage("--command is an engine of your own; --engine %s is another", engine)
			}
			if err := serving.CheckName(args[0]); err != nil {
				return usage("%v", err)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return s.deploy(cmd, args) },
	}
	f := cmd.Flags()
	f.Int("min", 1, "replicas that always run; 0 lets the endpoint sleep")
	f.Int("max", 0, "most replicas (default: as many as the machine has processors)")
	f.Duration("idle", 0, "with --min 0: how long without a request until it sleeps (default: as long as a start takes, at least 5s)")
	f.Duration("objective", 0, "how long a request may wait, and take, at the 99th percentile (default 200ms of waiting, and found for taking)")
	f.String("policy", "", "how it scales: autopilot (the default), published:0.70, static:4")
	f.String("queue", "", "order in which requests wait: late-last (the default: who is late already waits for those on time) or fifo")
	f.StringArray("rate-limit", nil, "CALLS/PERIOD[:user|:token|:endpoint], such as 100/minute:user; may be repeated; none removes all")
	f.Int("max-in-flight", 0, "most requests at once, those that wait included; 0 is no bound")
	f.Bool("strict", false, "refuse with 400 whatever MLflow would alter silently")
	f.Bool("egress", false, "let the model open connections; without it, it reaches nobody")
	f.String("engine", "", "auto, python, native, mlflow")
	f.StringArray("env", nil, "K=V, an environment variable of the model; may be repeated")
	f.String("command", "", "an engine of your own: a shell command that listens on $PORT")
	f.String("health", "", "path that answers 2xx once the command is ready")
	f.Int("traffic", 0, "percent of the traffic for the new version, beside what is there")
	f.Bool("no-wait", false, "return once the order is accepted")
	f.Duration("timeout", 20*time.Minute, "how long to wait")
	return cmd
}

func (s *shell) deploy(cmd *cobra.Command, args []string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	order, err := s.order(cmd, c, args)
	if err != nil {
		return err
	}
	var v rest.View
	if err := c.do(cmd.Context(), "PUT", at(args[0]), order, &v); err != nil {
		return err
	}
	if noWait, _ := cmd.Flags().GetBool("no-wait"); noWait {
		s.say("%s: config %d is accepted; loadline wait %s --for updated", v.Name, v.Pending, v.Name)
		return s.print(v, func(io.Writer) {})
	}
	timeout, _ := cmd.Flags().GetDuration("timeout")
	v, err = s.follow(cmd.Context(), c, v, timeout)
	if errors.Is(err, context.Canceled) {
		s.say("%s goes on without us; see: loadline describe %s", args[0], args[0])
	}
	if err != nil {
		return err
	}
	s.summary(c, v)
	return s.print(v, func(io.Writer) {})
}

// order builds the body of a deploy from flags and arguments.
func (s *shell) order(cmd *cobra.Command, c *client, args []string) (map[string]any, error) {
	order := map[string]any{}
	f := cmd.Flags()
	for _, name := range []string{"min", "max", "traffic"} {
		if f.Changed(name) {
			order[name], _ = f.GetInt(name)
		}
	}
	for _, name := range []string{"idle", "objective"} {
		if f.Changed(name) {
			d, _ := f.GetDuration(name)
			order[name] = d.String()
		}
	}
	for _, name := range []string{"policy", "queue", "command", "health"} {
		if v, _ := f.GetString(name); v != "" {
			order[name] = v
		}
	}
	if engine := s.settings.text("engine"); engine != "" && order["command"] == nil {
		order["engine"] = engine
	}
	for _, name := range []string{"strict", "egress"} {
		if on, _ := f.GetBool(name); on {
			order[name] = true
		}
	}
	if err := limits(cmd, order); err != nil {
		return nil, err
	}
	env, err := variables(cmd)
	if err != nil {
		return nil, err
	}
	if len(env) > 0 {
		order["env"] = env
	}
	if len(args) == 2 {
		model, err := modelArgument(args[1], c.local())
		if err != nil {
			return nil, err
		}
		order["model"] = model
	}
	return order, nil
}

// variables reads --env K=V.
func variables(cmd *cobra.Command) (map[string]string, error) {
	list, _ := cmd.Flags().GetStringArray("env")
	env := map[string]string{}
	for _, v := range list {
		k, value, ok := strings.Cut(v, "=")
		if !ok {
			return nil, usage("--env %q is not K=V", v)
		}
		env[k] = value
	}
	return env, nil
}

var schemeRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// modelArgument makes a folder's name absolute: the server stands elsewhere.
func modelArgument(model string, local bool) (string, error) {
	if schemeRE.MatchString(model) {
		return model, nil
	}
	path, err := filepath.Abs(model)
	if err != nil {
		return "", err
	}
	if !local {
		return "", usage("%s is a folder of this machine, and the server is on another", model)
	}
	if _, err := os.Stat(path); err != nil {
		hint := "MODEL is a folder, models:/name/3, models:/name@alias, runs:/id/path, s3://…"
		return "", &fault{exit: exitNotFound, what: "no model folder " + path, why: reason(err), fix: hint}
	}
	return path, nil
}

func reason(err error) string {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

// follow shows phases until the pending config answers, failed, or time is up.
func (s *shell) follow(ctx context.Context, c *client, v rest.View, timeout time.Duration) (rest.View, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	version := v.Pending
	show := newProgress(s)
	defer show.stop()
	for {
		show.entities(v, version)
		switch {
		case v.Failed != nil && v.Failed.Version == version:
			show.stop()
			return v, s.deployFailed(ctx, c, v)
		case v.Pending == 0 && v.Ready:
			return v, nil
		case v.Pending != version && v.Pending != 0:
			return v, &fault{exit: exitConflict, what: fmt.Sprintf("%s: config %d was overtaken by config %d", v.Name, version, v.Pending),
				fix: "loadline describe " + v.Name}
		}
		if err := pause(ctx, lookEvery); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return v, &fault{exit: exitTimedOut, what: fmt.Sprintf("%s is not ready after %s; it goes on without us", v.Name, took(timeout)),
					fix: "loadline wait " + v.Name + " --for updated"}
			}
			return v, err
		}
		var next rest.View // fresh: absent fields would keep their old values
		if err := c.do(ctx, "GET", at(v.Name), nil, &next); err == nil {
			v = next
		} else if ctx.Err() == nil {
			return v, err
		}
	}
}

// lookEvery is how often a waiting command asks again.
const lookEvery = 150 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// deployFailed tells the decisive line, the last log lines, what still serves,
// and the command that fixes it.
func (s *shell) deployFailed(ctx context.Context, c *client, v rest.View) error {
	f := &fault{exit: exitFailed, what: fmt.Sprintf("%s: config %d did not become ready", v.Name, v.Failed.Version),
		why: v.Failed.Why, fix: v.Failed.Fix}
	if v.Failed.Entity != "" {
		f.what += " (" + v.Failed.Entity + ")"
	}
	f.lines = c.lastLines(ctx, at(v.Name, "logs")+"?build=1", 12)
	f.where = "loadline logs " + v.Name + " --build"
	if v.Version > 0 {
		s.say("%s: config %d goes on serving, as before", v.Name, v.Version)
	} else {
		s.say("%s: nothing serves yet", v.Name)
	}
	if f.fix == "" {
		f.fix = "loadline deploy " + v.Name + " MODEL"
	}
	return f
}

func (c *client) lastLines(ctx context.Context, path string, n int) []string {
	resp, err := c.open(ctx, "GET", path, nil, nil)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return nil
	}
	const most = 4 << 20
	data, _ := io.ReadAll(io.LimitReader(resp.Body, most)) // what came must do
	lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
	return lines[max(0, len(lines)-n):]
}

// summary says what now serves and what to try next.
func (s *shell) summary(c *client, v rest.View) {
	for _, e := range v.Entities {
		if e.Pending {
			continue
		}
		line := fmt.Sprintf("%s: %s is ready, engine %s", v.Name, e.Name, e.Engine)
		if e.Runtime != nil {
			line += fmt.Sprintf(", python %s, mlflow %s", e.Runtime.Python, e.Runtime.MLflow)
		}
		s.say("%s, %d of %d replicas", line, e.Ready, e.Want)
	}
	s.say("try: loadline invoke %s", v.Name)
}
