package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/rest"
)

func rollbackCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rollback NAME", Short: "Write a new config with the content of an earlier one", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, _ := cmd.Flags().GetInt("to")
			body := map[string]any{}
			if cmd.Flags().Changed("to") {
				if to < 1 {
					return usage("--to %d is no config_version; they count from 1", to)
				}
				body["to"] = to
			}
			return s.change(cmd, "POST", at(args[0], "rollback"), body)
		},
	}
	cmd.Flags().Int("to", 0, "config_version of describe; the one before by default")
	cmd.Flags().Bool("no-wait", false, "return once the order is accepted")
	cmd.Flags().Duration("timeout", 20*time.Minute, "how long to wait")
	return cmd
}

// change sends an order and, where it takes time, waits for it.
func (s *shell) change(cmd *cobra.Command, method, path string, body any) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	var v rest.View
	if err := c.do(cmd.Context(), method, path, body, &v); err != nil {
		return err
	}
	noWait, _ := cmd.Flags().GetBool("no-wait")
	if v.Pending > 0 && !noWait {
		timeout, _ := cmd.Flags().GetDuration("timeout")
		if v, err = s.follow(cmd.Context(), c, v, timeout); err != nil {
			return err
		}
	}
	s.say("%s: config %d, %s", v.Name, max(v.Version, v.Pending), v.State)
	return s.print(v, func(io.Writer) {})
}

func trafficCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "traffic NAME ENTITY=PERCENT …", Short: "Split traffic between served entities",
		Example: "  loadline traffic iris iris-3=90 iris-4=10",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage("NAME and at least one ENTITY=PERCENT are needed")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			splits, sum := map[string]int{}, 0
			for _, a := range args[1:] {
				entity, text, ok := strings.Cut(a, "=")
				percent, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
				if !ok || err != nil || entity == "" {
					return usage("%q is not ENTITY=PERCENT", a)
				}
				if _, twice := splits[entity]; twice {
					return usage("%s is there twice", entity)
				}
				splits[entity] = percent
				sum += percent
			}
			if sum != 100 {
				return usage("the percentages add up to %d; they must add up to 100", sum)
			}
			return s.change(cmd, "PUT", at(args[0], "traffic"), splits)
		},
	}
}

func scaleCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "scale NAME", Short: "Change how many replicas run", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{}
			for _, name := range []string{"min", "max"} {
				if cmd.Flags().Changed(name) {
					body[name], _ = cmd.Flags().GetInt(name)
				}
			}
			for _, name := range []string{"idle", "objective"} {
				if cmd.Flags().Changed(name) {
					d, _ := cmd.Flags().GetDuration(name)
					body[name] = d.String()
				}
			}
			if cmd.Flags().Changed("policy") {
				body["policy"], _ = cmd.Flags().GetString("policy")
			}
			if len(body) == 0 {
				return usage("say what to change: --min, --max, --idle, --objective or --policy")
			}
			if entity, _ := cmd.Flags().GetString("served"); entity != "" {
				body["entity"] = entity
			}
			return s.change(cmd, "PUT", at(args[0], "scale"), body)
		},
	}
	cmd.Flags().Int("min", 1, "replicas that always run; 0 lets the endpoint sleep")
	cmd.Flags().Int("max", 0, "most replicas (default: as many as the machine has processors)")
	cmd.Flags().Duration("idle", 0, "with --min 0: how long without a request until it sleeps")
	cmd.Flags().Duration("objective", 0, "how long a request may wait, and take, at the 99th percentile")
	cmd.Flags().String("policy", "", "how it scales: autopilot, published:0.70, static:4")
	cmd.Flags().String("served", "", "the served entity, where there are several")
	return cmd
}

func deleteCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete an endpoint", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			yes, _ := cmd.Flags().GetBool("yes")
			if !yes {
				if yes, err = s.confirmed(cmd.Context(), "delete "+args[0]+"?"); err != nil {
					return err
				}
			}
			if !yes {
				return &fault{exit: exitFailed, what: args[0] + " is not deleted", fix: "loadline delete " + args[0] + " --yes"}
			}
			if err := c.do(cmd.Context(), "DELETE", at(args[0]), nil, nil); err != nil {
				return err
			}
			s.say("%s is deleted", args[0])
			return nil
		},
	}
	cmd.Flags().Bool("yes", false, "do not ask")
	return cmd
}

// confirmed asks a person. Where there is none, nobody said yes.
func (s *shell) confirmed(ctx context.Context, question string) (bool, error) {
	if !s.hearsTerminal() {
		return false, nil
	}
	fmt.Fprintf(s.err, "%s [y/N] ", question)
	line, err := heard(ctx, func() (string, error) { return bufio.NewReader(s.in).ReadString('\n') })
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return err == nil && strings.EqualFold(strings.TrimSpace(line), "y"), nil
}

// heard reads from somebody who may say nothing for ever: Ctrl-C must end that.
func heard[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type said struct {
		what T
		err  error
	}
	ear := make(chan said, 1)
	go func() {
		what, err := read()
		ear <- said{what, err}
	}()
	select {
	case s := <-ear:
		return s.what, s.err
	case <-ctx.Done():
		var nothing T
		return nothing, ctx.Err()
	}
}

func waitCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "wait NAME --for ready|updated|replicas=N", Short: "Wait until an endpoint is as it should be", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, _ := cmd.Flags().GetString("for")
			goal, err := parseGoal(text)
			if err != nil {
				return err
			}
			timeout, _ := cmd.Flags().GetDuration("timeout")
			c, err := s.client()
			if err != nil {
				return err
			}
			return s.wait(cmd.Context(), c, args[0], goal, timeout)
		},
	}
	cmd.Flags().String("for", "ready", "ready, updated or replicas=N")
	cmd.Flags().Duration("timeout", 5*time.Minute, "how long to wait")
	return cmd
}

// A goal says whether a view is what was waited for, or why it never will be.
type goal struct {
	text    string
	reached func(rest.View) bool
}

func parseGoal(text string) (goal, error) {
	switch text {
	case "ready":
		return goal{text, func(v rest.View) bool { return v.Ready }}, nil
	case "updated":
		return goal{text, func(v rest.View) bool { return v.Ready && v.Pending == 0 }}, nil
	}
	number, ok := strings.CutPrefix(text, "replicas=")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 {
		return goal{}, usage("--for %q is not known; known are ready, updated, replicas=N", text)
	}
	return goal{text, func(v rest.View) bool {
		ready := 0
		for _, e := range v.Entities {
			if e.Version == v.Version {
				ready += e.Ready
			}
		}
		return v.Pending == 0 && ready == n
	}}, nil
}

// oneLook is how long the first look may take where no time to wait was given.
const oneLook = 5 * time.Second

func (s *shell) wait(ctx context.Context, c *client, name string, g goal, timeout time.Duration) error {
	asking, enough := context.WithTimeout(ctx, max(timeout, oneLook))
	defer enough()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		var v rest.View
		err := c.do(asking, "GET", at(name), nil, &v)
		switch {
		case err != nil && asking.Err() == nil:
			return err
		case err != nil:
		case v.Failed != nil && (g.text == "updated" || v.Version == 0):
			return &fault{exit: exitFailed, what: fmt.Sprintf("%s: config %d did not become ready", name, v.Failed.Version),
				why: v.Failed.Why, where: "loadline logs " + name + " --build", fix: v.Failed.Fix}
		case g.reached(v):
			return s.print(v, func(io.Writer) {})
		}
		if err := pause(ctx, lookEvery); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return &fault{exit: exitTimedOut, what: fmt.Sprintf("%s is %s after %s, not %s", name, cmp.Or(v.State, "silent"), took(timeout), g.text),
					fix: "loadline describe " + name}
			}
			return err
		}
	}
}
