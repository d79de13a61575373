package main

import (
	"bytes"
	"context"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/agent/native"
	"loadline.dev/loadline/agent/pyworker"
	"loadline.dev/loadline/agent/upstream"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/prepare"
	"loadline.dev/loadline/serving"
)

// prepareCommand is the role of a child that proves a recipe; the server starts it.
func prepareCommand(*shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "prepare --job FILE", Short: "Prove one recipe", Hidden: true, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			job, _ := cmd.Flags().GetString("job")
			if code := prepare.Child([]string{"--job", job}, try); code != 0 {
				return &fault{exit: code, what: "not proven; the verdict stands beside the job"}
			}
			return nil
		},
	}
	cmd.Flags().String("job", "", "what to do, as the server wrote it")
	return cmd
}

// try makes the engine of an attempt, as an agent would.
func try(a prepare.Attempt) prepare.Candidate {
	l := a.Recipe.Launch
	python := func() agent.Engine {
		return pyworker.New(pyworker.Config{
			Command: func() (*exec.Cmd, error) { return a.Command(0) }, Spawn: a.Spawn,
			MaxBody: a.Recipe.Limits.Body, Strict: a.Recipe.Strict,
		})
	}
	switch l.Protocol {
	case serving.Worker:
		return candidate{python()}
	case serving.Onnx:
		if a.Alone {
			python = func() agent.Engine { return decliner{} }
		}
		return candidate{native.New(native.Config{Native: *l.Native, Reserve: python, MaxBody: a.Recipe.Limits.Body, Strict: a.Recipe.Strict})}
	}
	return candidate{upstream.New(upstream.Config{Command: a.Command, Spawn: a.Spawn, Health: l.Health, Raw: l.Raw})}
}

// A decliner stands where nobody is in reserve.
type decliner struct{ agent.Engine }

func (decliner) Start(context.Context) error { return nil }
func (decliner) Stop(time.Duration)          {}
func (decliner) Done() <-chan struct{}       { return nil }

func (decliner) Do(context.Context, *agent.Request, agent.Answerer) error {
	return prepare.ErrDeclined
}

// A candidate is an engine that is asked from within this process.
type candidate struct{ agent.Engine }

// Ask implements [prepare.Candidate].
func (c candidate) Ask(ctx context.Context, body []byte, contentType string) (int, []byte, error) {
	var a answer
	err := c.Do(ctx, &agent.Request{Method: "POST", Path: "/invocations", ContentType: contentType,
		Header: []link.Field{{Name: "Content-Type", Value: contentType}},
		Body:   bytes.NewReader(body), Size: int64(len(body))}, &a)
	return a.status, a.body.Bytes(), err
}

// Stop implements [prepare.Candidate].
func (c candidate) Stop(grace time.Duration) { c.Engine.Stop(grace) }

// An answer collects what an engine says.
type answer struct {
	status int
	body   bytes.Buffer
}

func (a *answer) Head(status int, _ []link.Field, _ int64) error { a.status = status; return nil }
func (a *answer) Write(p []byte) (int, error)                    { return a.body.Write(p) }
func (a *answer) Flush() error                                   { return nil }
