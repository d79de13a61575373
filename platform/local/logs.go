package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

const (
	keptLogs = 3                      // logs kept of an entity's replicas that are gone
	logsFor  = 7 * 24 * time.Hour     // and for how long
	tailLook = 200 * time.Millisecond // how often a followed log is looked at
)

// keepLog saves the log of a replica that goes, as the last that is known of it.
func (p *Platform) keepLog(r *replica) {
	from := filepath.Join(r.dir, engineLog)
	if info, err := os.Stat(from); err != nil || info.Size() == 0 {
		from = filepath.Join(r.dir, agentLog)
	}
	dir := p.graveyard(r.rev.Endpoint, r.entity)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.Log.Warn("log of a replica is lost", "replica", r.id, "why", err)
		return
	}
	if err := os.Rename(from, filepath.Join(dir, r.id+".log")); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.Log.Warn("log of a replica is lost", "replica", r.id, "why", err)
	}
	p.thin(dir)
}

func (p *Platform) graveyard(endpoint, entity string) string {
	return filepath.Join(p.Dir, "logs", "replicas", endpoint, entity)
}

// thin keeps the newest few logs of a folder.
func (p *Platform) thin(dir string) {
	paths := newestLogs(dir)
	for _, path := range paths[min(len(paths), keptLogs):] {
		os.Remove(path) // what stays is bounded by the next replica that goes
	}
}

// newestLogs lists a folder's logs, newest first.
func newestLogs(dir string) []string {
	paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return nil
	}
	age := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(age(b).Compare(age(a)), cmp.Compare(a, b)) })
	return paths
}

// forgetOldLogs removes the logs of endpoints that have long been gone.
func (p *Platform) forgetOldLogs(now time.Time) {
	dirs, err := filepath.Glob(filepath.Join(p.Dir, "logs", "replicas", "*", "*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		for _, path := range newestLogs(dir) {
			if info, err := os.Stat(path); err == nil && now.Sub(info.ModTime()) > logsFor {
				os.Remove(path)
			}
		}
		os.Remove(dir) // only when empty
		os.Remove(filepath.Dir(dir))
	}
}

// Logs implements [control.LogSource]. The replicas that run are read; when
// there are none, the last of those that ran.
func (p *Platform) Logs(ctx context.Context, q control.LogQuery) (io.ReadCloser, error) {
	sources := p.sources(q)
	if len(sources) == 0 && !q.Follow {
		return nil, &serving.Error{Op: "logs", Subject: cmp.Or(q.Replica, q.Entity), Kind: serving.NotFound,
			Err: errors.New("no replica has written anything yet")}
	}
	if q.Follow {
		return p.follow(ctx, q)
	}
	var text bytes.Buffer
	for _, s := range sources {
		if len(sources) > 1 {
			fmt.Fprintf(&text, "==> replica %s <==\n", s.id)
		}
		for _, path := range []string{s.path + ".1", s.path} {
			part, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			text.Write(part)
		}
		if n := text.Len(); n > 0 && text.Bytes()[n-1] != '\n' {
			text.WriteByte('\n')
		}
	}
	return io.NopCloser(&text), nil
}

type source struct{ id, path string }

// sources lists the logs that a query asks for, oldest replica first.
func (p *Platform) sources(q control.LogQuery) []source {
	type life struct {
		source
		dir     string
		started time.Time
		dead    bool
	}
	p.mu.Lock()
	var lives []life
	for _, g := range p.groups {
		for _, r := range g.replicas {
			if g.rev.Endpoint == q.EndpointID && (q.Entity == "" || q.Entity == r.entity) && (q.Replica == "" || q.Replica == r.id) {
				lives = append(lives, life{source{r.id, filepath.Join(r.dir, engineLog)}, r.dir, r.seen.Started, r.dead})
			}
		}
	}
	p.mu.Unlock()
	slices.SortFunc(lives, func(a, b life) int { return a.started.Compare(b.started) })

	var list []source
	for _, l := range lives {
		if info, err := os.Stat(l.path); l.dead && (err != nil || info.Size() == 0) {
			l.path = filepath.Join(l.dir, agentLog)
		}
		list = append(list, l.source)
	}
	if len(list) > 0 {
		return list
	}
	// An asterisk in a query is not a pattern.
	if strings.ContainsAny(q.Entity+q.Replica, `*?[\/`) {
		return nil
	}
	dirs, err := filepath.Glob(p.graveyard(q.EndpointID, cmp.Or(q.Entity, "*")))
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		for _, path := range newestLogs(dir) {
			id := strings.TrimSuffix(filepath.Base(path), ".log")
			if q.Replica == id || q.Replica == "" && path == newestLogs(dir)[0] {
				list = append(list, source{id, path})
			}
		}
	}
	return list
}

// follow writes what there is and what comes, until ctx ends or the reader is
// closed. Replicas that start later are followed too.
func (p *Platform) follow(ctx context.Context, q control.LogQuery) (io.ReadCloser, error) {
	out, in := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end.stopped() {
		cancel()
		return nil, &serving.Error{Op: "logs", Kind: serving.Unavailable, Err: errors.New("the platform is closed")}
	}
	p.work.Go(func() {
		defer cancel()
		p.tail(ctx, q, in)
	})
	p.work.Go(func() { // a writer must not wait for a reader that has left
		select {
		case <-ctx.Done():
		case <-p.end.done:
		}
		cancel()
		in.Close()
	})
	return out, nil
}

// tail copies what the sources of a query gain.
func (p *Platform) tail(ctx context.Context, q control.LogQuery, to io.Writer) {
	tick := time.NewTicker(tailLook)
	defer tick.Stop()
	at, last := map[string]int64{}, ""
	for {
		for _, s := range p.sources(q) {
			part, err := readFrom(s.path, at)
			if err != nil || len(part) == 0 {
				continue
			}
			if s.id != last {
				part = append(fmt.Appendf(nil, "==> replica %s <==\n", s.id), part...)
				last = s.id
			}
			if _, err := to.Write(part); err != nil {
				return // nobody reads any more
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readFrom returns what a file gained since; a file that shrank was begun anew.
func readFrom(path string, at map[string]int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < at[path] {
		at[path] = 0
	}
	part := make([]byte, info.Size()-at[path])
	n, err := f.ReadAt(part, at[path])
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	at[path] += int64(n)
	return part[:n], nil
}
