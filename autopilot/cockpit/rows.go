package cockpit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

// rows are the decisions about one entity, and its traffic, in files of bounded
// size: when one is full it takes the place of the one before.
type rows struct {
	decisions, traffic journal
	last               []serving.Decision // newest last
	idle               bool               // the last second of traffic was an empty one
}

// Bounds of what is kept of each entity: about 2,000 decisions, and some days of
// seconds with traffic.
const (
	decisionBytes = 512 << 10
	trafficBytes  = 4 << 20
	lastKept      = 64
)

func (r *rows) close() {
	r.decisions.close()
	r.traffic.close()
}

func (c *Cockpit) closeFiles() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.crafts {
		f.file.close()
	}
}

// A journal is a file that is appended to, and the one before it.
type journal struct {
	file *os.File
	size int64
}

// add appends a line to the journal at path.
func (j *journal) add(path string, line []byte, most int64) error {
	if j.file == nil {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		info, err := file.Stat()
		if err != nil {
			file.Close()
			return err
		}
		j.file, j.size = file, info.Size()
	}
	n, err := j.file.Write(line)
	j.size += int64(n)
	if err != nil || j.size < most {
		return err
	}
	j.close()
	return os.Rename(path, path+".old")
}

func (j *journal) close() {
	if j.file != nil {
		_ = j.file.Close() // each line was written in one go
		j.file = nil
	}
}

func (k key) path(dir, kind string) string {
	return filepath.Join(dir, kind, k.id+"."+k.entity)
}

// log keeps a decision in memory and on disk.
func (f *craft) log(c *Cockpit, d serving.Decision, now time.Time) {
	d.At, d.Entity = now.UTC(), f.entity
	f.file.last = append(f.file.last, d)
	f.file.last = f.file.last[max(0, len(f.file.last)-lastKept):]
	if d.From != d.To {
		c.Log.Info("autopilot", "endpoint", f.endpoint, "entity", f.entity, "axis", d.Axis, "from", d.From, "to", d.To, "why", d.Why)
	}
	c.Metrics.decided(f, d)
	if c.Dir == "" {
		return
	}
	line, err := json.Marshal(d)
	if err == nil {
		err = f.file.decisions.add(f.path(c.Dir, "decisions"), append(line, '\n'), decisionBytes)
	}
	if err != nil {
		c.Log.Warn("a decision stays in memory", "endpoint", f.endpoint, "why", err)
	}
}

// sizeRow is a decision about replicas, with what was seen.
func (f *craft) sizeRow(d autopilot.Decision, rule, why string, was int, r *autopilot.Report, have fleet, now time.Time) serving.Decision {
	row := serving.Decision{Axis: "replicas", From: was, To: d.Want, Rule: rule, Why: why, Refused: d.Refused,
		Ready: have.ready, Starting: max(0, have.alive-have.ready), Arrivals: float64(r.Arrivals), InFlight: r.InFlight, Waiting: r.Waiting,
		Demand: d.Demand, Headroom: d.Headroom, Line: d.Line, Objective: f.scale.Objective, Cost: f.cost}
	if r.Ended > 0 {
		row.Service = r.Worked / time.Duration(r.Ended)
	}
	return row
}

// lineRowOf is a decision about the load line.
func (f *craft) lineRowOf(d autopilot.LineDecision, was int, r *autopilot.Report, now time.Time) serving.Decision {
	row := serving.Decision{Axis: "line", From: was, To: d.Line, Rule: lineRules[d.Why], Why: d.Why.String(), Refused: d.Refused,
		Ready: len(r.Replicas), Arrivals: float64(r.Arrivals), InFlight: r.InFlight, Waiting: r.Waiting, Line: float64(d.Line),
		Lambda: d.Law.Lambda, Sigma: d.Law.Sigma, Kappa: d.Law.Kappa, Tail: d.Tail, TailError: d.Error, Objective: d.Objective}
	if r.Ended > 0 {
		row.Service = r.Worked / time.Duration(r.Ended)
	}
	return row
}

// write keeps a second of traffic. Of empty seconds in a row only the first is
// written.
func (f *craft) write(c *Cockpit, r *autopilot.Report, have fleet, now time.Time, over time.Duration) {
	c.Metrics.see(f)
	empty := r.Arrivals == 0 && r.Ended == 0 && r.Waiting == 0 && r.InFlight == 0 && r.Lost == 0
	if c.Dir == "" || empty && f.file.idle {
		return
	}
	f.file.idle = empty
	s := serving.Second{At: now.Unix(), Arrivals: r.Arrivals, Ended: r.Ended, Worked: r.Worked, Waiting: r.Waiting, Late: r.Late, Lost: r.Lost,
		Failed: r.Failed, Replicas: have.alive, Ready: have.ready, Line: f.line.Current()}
	if err := f.file.traffic.add(f.path(c.Dir, "traffic"), appendSecond(nil, s), trafficBytes); err != nil {
		c.Log.Warn("a second of traffic is not kept", "endpoint", f.endpoint, "why", err)
	}
}

func appendSecond(b []byte, s serving.Second) []byte {
	return fmt.Appendf(b, "%d,%d,%d,%d,%d,%d,%d,%d,%d,%d,%d\n", s.At, s.Arrivals, s.Ended, s.Worked.Microseconds(), s.Waiting, s.Late,
		s.Lost, s.Failed, s.Replicas, s.Ready, s.Line)
}

func readSecond(line string) (s serving.Second, ok bool) {
	var worked int64
	n, err := fmt.Sscanf(line, "%d,%d,%d,%d,%d,%d,%d,%d,%d,%d,%d", &s.At, &s.Arrivals, &s.Ended, &worked, &s.Waiting, &s.Late,
		&s.Lost, &s.Failed, &s.Replicas, &s.Ready, &s.Line)
	s.Worked = time.Duration(worked) * time.Microsecond
	return s, err == nil && n == 11
}

// Traffic returns the seconds kept of an entity since a time, oldest first.
func (c *Cockpit) Traffic(id, entity string, since time.Time) ([]serving.Second, error) {
	var list []serving.Second
	err := c.lines(key{id, entity}.path(c.Dir, "traffic"), func(line []byte) {
		if s, ok := readSecond(string(line)); ok && s.At >= since.Unix() {
			list = append(list, s)
		}
	})
	return list, err
}

// Lines returns the load lines of an endpoint's entities, by name.
func (c *Cockpit) Lines(id string) []serving.LoadLine {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []serving.LoadLine
	for k, f := range c.crafts {
		if k.id != id || f.line == nil {
			continue
		}
		d := f.lineRowOf(f.judged, f.judged.Line, &autopilot.Report{}, time.Time{})
		d.At, d.Entity = c.ticked.UTC(), f.entity
		list = append(list, serving.LoadLine{Entity: f.entity, Last: d, Start: f.starts.usual(), Plan: f.line.Carries(f.service)})
	}
	slices.SortFunc(list, func(a, b serving.LoadLine) int { return strings.Compare(a.Entity, b.Entity) })
	return list
}

// Decisions returns the newest n decisions about an endpoint's entities, or
// about one of them, oldest first; with until, only those not after it.
func (c *Cockpit) Decisions(id, entity string, until time.Time, n int) ([]serving.Decision, error) {
	var entities []string
	c.mu.Lock()
	for k := range c.crafts {
		if k.id == id && (entity == "" || k.entity == entity) {
			entities = append(entities, k.entity)
		}
	}
	c.mu.Unlock()
	var all []serving.Decision
	for _, name := range entities {
		one, err := c.decisionsOf(key{id, name}, until, n)
		if err != nil {
			return nil, err
		}
		all = append(all, one...)
	}
	sortByTime(all)
	return all[max(0, len(all)-n):], nil
}

func (c *Cockpit) decisionsOf(k key, until time.Time, n int) ([]serving.Decision, error) {
	var list []serving.Decision
	take := func(d serving.Decision) {
		if until.IsZero() || !d.At.After(until) {
			list = append(list, d)
		}
	}
	if c.Dir == "" || until.IsZero() && n <= lastKept {
		c.mu.Lock()
		if f := c.crafts[k]; f != nil {
			for _, d := range f.file.last {
				take(d)
			}
		}
		c.mu.Unlock()
		if c.Dir == "" || len(list) >= n {
			return list, nil
		}
		list = nil
	}
	err := c.lines(k.path(c.Dir, "decisions"), func(line []byte) {
		var d serving.Decision
		if json.Unmarshal(line, &d) == nil { // a line that a crash cut is skipped
			take(d)
		}
	})
	return list, err
}

// lines calls f with each line of a journal, the older file first.
func (c *Cockpit) lines(path string, f func([]byte)) error {
	for _, path := range []string{path + ".old", path} {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read what was kept: %w", err)
		}
		in := bufio.NewReader(bytes.NewReader(data))
		for {
			line, err := in.ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			f(line)
		}
	}
	return nil
}

// Prune removes what was kept of entities that nobody has heard of for a month.
func (c *Cockpit) Prune(now time.Time) {
	const month = 30 * 24 * time.Hour
	for _, kind := range []string{"decisions", "traffic"} {
		list, _ := os.ReadDir(filepath.Join(c.Dir, kind))
		for _, one := range list {
			info, err := one.Info()
			if err == nil && now.Sub(info.ModTime()) > month && strings.Contains(one.Name(), ".") {
				_ = os.Remove(filepath.Join(c.Dir, kind, one.Name())) // what stays is small
			}
		}
	}
}
