package pyenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"loadline.dev/loadline/serving"
)

// Build makes the environment of a lock that [Builder.Lock] gave, unless it is
// there already. Nobody ever sees half of one: it is built elsewhere and
// renamed. Callers that want the same environment wait for each other.
func (b *Builder) Build(ctx context.Context, env serving.Environment, log io.Writer, report Report) (serving.Environment, error) {
	k, err := b.kept(env.Digest)
	if err != nil {
		return env, err
	}
	env = k.environment(env.Digest)
	env.Dir = b.path("envs", env.Digest)
	unlock, err := lockFile(ctx, b.path("tmp", "env-"+env.Digest+".lock"))
	if err != nil {
		return env, err
	}
	defer unlock()

	bad, err := check(env.Dir)
	switch {
	case err == nil && len(bad) == 0:
		report(serving.Phase{State: serving.PhaseCached, Note: "built before", Done: k.size(), Total: k.size()})
		return env, nil
	case err == nil:
		if err := b.quarantine(ctx, env, bad, log); err != nil {
			return env, err
		}
	case !errors.Is(err, os.ErrNotExist):
		b.log().Warn("environment unusable, building it again", "dir", env.Dir, "why", err)
		if err := b.setAside(env); err != nil {
			return env, err
		}
	}
	if err := b.build(ctx, env, k, log, report); err != nil {
		return env, err
	}
	return env, nil
}

func (b *Builder) build(ctx context.Context, env serving.Environment, k kept, log io.Writer, report Report) error {
	i, err := find(ctx, k.Python, k.Exact)
	if err != nil {
		return err
	}
	tmp := b.path("tmp", "env-"+env.Digest)
	os.RemoveAll(tmp) // of a build that was killed; what it had fetched is in uv's cache
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	target, lock := filepath.Join(tmp, "env"), filepath.Join(tmp, "lock.txt")
	if err := os.WriteFile(lock, []byte(k.Text), 0o600); err != nil {
		return err
	}
	// Relocatable, so that its scripts survive the renaming.
	venv := call{dir: tmp, args: []string{"venv", "--quiet", "--relocatable", "--no-project", "--no-python-downloads", "--python", i.Path, target}}
	if err := b.run(ctx, venv, log); err != nil {
		return &serving.Error{Op: "make environment", Kind: serving.Internal, Err: err}
	}
	from, err := b.install(ctx, i, k, installation{tmp, target, lock, env.Digest}, log, report)
	if err != nil {
		return err
	}
	if err := takeStock(target); err != nil {
		return err
	}
	if err := os.Rename(target, env.Dir); err != nil {
		return err
	}
	report(serving.Phase{Note: fmt.Sprintf("%d packages%s", k.size(), from), Done: k.size(), Total: k.size()})
	return syncDir(filepath.Dir(env.Dir))
}

// An installation says where the packages of a lock go.
type installation struct{ tmp, target, lock, digest string }

// install puts the packages in. Ready wheels come from the shared cache and run
// nobody's code. Only a lock that needs something built from source is
// installed in confinement, with a cache of its own, which is kept so that the
// environment can be made again without the index.
func (b *Builder) install(ctx context.Context, i Interpreter, k kept, to installation, log io.Writer, report Report) (how string, err error) {
	progress := func(line string) {
		if what, ok := strings.CutPrefix(strings.TrimSpace(line), "Downloading "); ok {
			report(serving.Phase{Note: "downloading " + what, Total: k.size()})
		}
	}
	args := []string{"pip", "sync", to.lock, "--python", filepath.Join(to.target, "bin", "python"), "--no-sources", "--no-python-downloads", "--allow-empty-requirements"}
	own := b.path("built", to.digest)
	if !k.Sources {
		args = append(args, "--require-hashes")
	}
	if !k.Sources && !exists(own) {
		c := call{dir: to.tmp, args: append(args[:len(args):len(args)], "--no-build", "--offline")}
		// What is in the cache is taken without asking an index that may be away.
		if b.run(ctx, c, io.Discard) == nil {
			return " from the cache", nil
		}
		c.args, c.watch = append(args[:len(args):len(args)], "--no-build"), progress
		err := b.run(ctx, c, log)
		if err == nil {
			return "", nil
		}
		if ctx.Err() != nil || !needsBuild(err) {
			return "", refusedBy(ctx, err)
		}
	}
	report(serving.Phase{Note: "building packages from source", Total: k.size()})
	if err := os.MkdirAll(own, 0o700); err != nil {
		return "", err
	}
	c := call{dir: to.tmp, args: args, cache: own, confined: true, watch: progress,
		read: []string{i.home()}, write: []string{own}}
	if k.Dir != "" {
		c.read = append(c.read, k.Dir)
	}
	c.args = append(args[:len(args):len(args)], "--offline")
	if b.run(ctx, c, io.Discard) == nil {
		return " from the cache", nil
	}
	c.args = args
	if err := b.run(ctx, c, log); err != nil {
		return "", refusedBy(ctx, err)
	}
	return ", some built from source", nil
}

func needsBuild(err error) bool {
	return says(err, "building from source is disabled") || says(err, "no usable wheels") || says(err, "no-build")
}

func refusedBy(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.ENOSPC) || says(err, "No space left"):
		return &serving.Error{Op: "install packages", Kind: serving.Unavailable, Err: err, Fix: "free some disk space, then deploy again"}
	case isNetwork(err):
		return &serving.Error{Op: "install packages", Kind: serving.Unavailable, Err: err,
			Fix: "check that the package index answers, then deploy again; what was fetched is kept"}
	}
	return &serving.Error{Op: "install packages", Kind: serving.Invalid, Err: err}
}

// Clean removes what builds that were killed have left behind. Builds that go
// on in another process are not disturbed.
func (b *Builder) Clean(ctx context.Context) error {
	entries, err := os.ReadDir(b.path("tmp"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || !strings.HasPrefix(name, "env-") && !strings.HasPrefix(name, "lock-") && !strings.HasPrefix(name, "bad-") {
			continue
		}
		if strings.HasPrefix(name, "bad-") {
			os.RemoveAll(b.path("tmp", name))
			continue
		}
		f, err := os.OpenFile(b.path("tmp", name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(b.path("tmp", name))
		}
		f.Close()
	}
	return ctx.Err()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
