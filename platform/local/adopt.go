package local

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"loadline.dev/loadline/serving"
)

// adopt takes over the replicas that still run, by the folders they left. What
// does not run any more is removed: who wishes it will have it started anew.
func (p *Platform) adopt() error {
	entries, err := os.ReadDir(p.replicas())
	if err != nil {
		return &serving.Error{Op: "read replicas", Subject: p.replicas(), Kind: serving.Unavailable, Err: err}
	}
	for _, entry := range entries {
		dir := filepath.Join(p.replicas(), entry.Name())
		r, a, err := p.recognise(dir, entry.Name())
		if err != nil {
			p.Log.Info("replica is gone", "replica", entry.Name(), "why", err)
			if r != nil {
				killSession(r.pid, r.birth, r.dir)
				p.keepLog(r)
			}
			killByCommand(p.command(dir))
			p.removeFolder(dir)
			continue
		}
		g := p.groups[a.Revision]
		if g == nil {
			g = &group{rev: a.Revision, assignment: a}
			p.groups[a.Revision] = g
		}
		g.size++
		g.replicas = append(g.replicas, r)
		p.metrics.adopted.Inc()
		p.Log.Info("replica adopted", "endpoint", a.Endpoint, "replica", r.id, "pid", r.pid)
	}
	return nil
}

var errEnded = errors.New("its process has ended")

// recognise makes sure that the process a folder speaks of is the one that runs.
// With an error it returns what it could find out, or nil.
func (p *Platform) recognise(dir, id string) (*replica, serving.Assignment, error) {
	var a serving.Assignment
	if err := readJSON(filepath.Join(dir, specName), &a); err != nil {
		return nil, a, err
	}
	r := &replica{id: id, dir: dir, entity: a.Entity, rev: a.Revision}
	var was record
	if err := readJSON(filepath.Join(dir, processName), &was); err != nil {
		return r, a, err
	}
	if was.PID <= 1 || was.Birth == "" {
		return r, a, errors.New("its record names no process")
	}
	r.pid, r.birth = was.PID, was.Birth
	process, err := os.FindProcess(was.PID) // before the check, so that no signal meets a stranger
	if err != nil {
		return r, a, err
	}
	if birth, err := birthOf(was.PID); err != nil || birth != was.Birth {
		return r, a, errEnded
	}
	r.process, r.adopted, r.vouched = process, true, r.hasCredential()
	r.seen = serving.Replica{State: serving.Starting, Started: was.Started, Since: time.Now()}
	r.readState()
	r.watchStranger(p)
	if r.seen.State == serving.Draining {
		r.leave(time.Now().Add((&group{assignment: a}).grace()))
	}
	return r, a, nil
}

func readJSON(path string, value any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, value)
}

// removeFolder removes a replica's folder, whatever its engine did to it.
func (p *Platform) removeFolder(dir string) {
	err := os.RemoveAll(dir)
	if errors.Is(err, os.ErrPermission) {
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
		err = os.RemoveAll(dir)
	}
	if err != nil {
		p.Log.Warn("folder of a replica stays", "replica", filepath.Base(dir), "why", err)
	}
}
