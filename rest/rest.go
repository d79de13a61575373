// Package rest speaks to clients about endpoints: the serving-endpoints API of
// Databricks, to the letter, so that existing clients work unmodified, and an
// API of our own for what the command line needs besides.
//
// It owns the wire types and their quirks, and turns them into the words of
// serving and back. It decides nothing about endpoints: it asks a [Desk]. It
// does not authenticate (the gateway has) and does not carry invocations.
package rest

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// A Desk takes orders about endpoints. Each is committed before it answers.
type Desk interface {
	Create(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error)
	SetConfig(ctx context.Context, tenant, name string, c serving.Config) (serving.Endpoint, error)
	Rollback(ctx context.Context, tenant, name string, to int) (serving.Endpoint, error)
	SetSplits(ctx context.Context, tenant, name string, splits []serving.Split) (serving.Endpoint, error)
	SetScale(ctx context.Context, tenant, name, entity string, s serving.Scale) (serving.Endpoint, error)
	SetQuota(ctx context.Context, tenant, name string, edit func(*serving.Quota)) (serving.Endpoint, error)
	SetTags(ctx context.Context, tenant, name string, add []serving.Tag, remove []string) ([]serving.Tag, error)
	Delete(ctx context.Context, tenant, name string) error
	Get(ctx context.Context, tenant, name string) (serving.Endpoint, error)
	List(ctx context.Context, tenant string) ([]serving.Endpoint, error)
	Status(ctx context.Context, tenant, name string) (serving.Status, error)
	Events(ctx context.Context, tenant, name string) ([]serving.Event, error)
	Logs(ctx context.Context, tenant, name string, q LogQuery) (io.ReadCloser, error)
	BuildLogs(ctx context.Context, tenant, name, entity string) (string, error)
}

// A Pilot keeps what was decided about entities, and their traffic.
type Pilot interface {
	// Decisions returns the newest n about an endpoint, or about one entity of
	// it, oldest first; with until, only those not after it.
	Decisions(id, entity string, until time.Time, n int) ([]serving.Decision, error)
	Lines(id string) []serving.LoadLine

	// Traffic returns the seconds with traffic since a time, oldest first.
	Traffic(id, entity string, since time.Time) ([]serving.Second, error)
}

// A LogQuery says whose output is asked for; empty is everyone's.
type LogQuery struct {
	Entity, Replica string
	Follow          bool
}

// Tokens makes and ends tokens.
type Tokens interface {
	Create(ctx context.Context, name string, scope auth.Scope, life time.Duration) (text string, made Token, err error)
	List() []Token
	Revoke(ctx context.Context, id string) error
}

// A Token is what is told of a token.
type Token struct {
	ID, Name         string
	Scope            auth.Scope
	Created, Expires time.Time // Expires zero is never
}

// Config is what an API is made of.
type Config struct {
	Desk   Desk
	Tokens Tokens
	Log    *slog.Logger

	// Pilot says why the autopilot did what it did. Nil has nothing to say.
	Pilot Pilot

	// Who is the caller of a request, as the gateway found out.
	Who func(*http.Request) auth.Principal

	// Model reads the MLmodel of a recipe. Nil has none to show.
	Model func(serving.Recipe) (mlmodel.Model, error)

	// CheckModel says what is wrong with a MODEL as it is written, before anything
	// is fetched. Nil checks nothing.
	CheckModel func(model string) error

	// Named lists what a shell command names of the server's disk. Nil is nothing.
	Named func(command string) []string

	// Loopback says that only this machine can reach the server.
	Loopback bool

	// Workspace is a stable number that clients take for the server's identity.
	Workspace string

	Version string
}

// maxBody bounds an API request; a config of ten entities with thirty variables
// of 64 KiB each is the largest that means something.
const maxBody = 32 << 20

// New returns the API.
func New(c Config) http.Handler {
	a := &api{Config: c}
	r := &router{log: c.Log}
	a.databricks(r)
	a.own(r)
	return r
}

type api struct{ Config }
