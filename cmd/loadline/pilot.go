package main

import (
	"bufio"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"loadline.dev/loadline/autopilot/cockpit"
)

// newCockpit makes the autopilot's place in this server. What it learns of
// models is kept beside the models, for every server on the data folder.
func (s *server) newCockpit() *cockpit.Cockpit {
	c := cockpit.New(cockpit.Parts{
		Platform: s.platform, Drawer: s.cache.Drawer("profiles"), Dir: filepath.Join(s.state, "autopilot"),
		Processors: runtime.NumCPU(), Hardware: hardware(), Log: s.log, Metrics: cockpit.NewMetrics(s.metrics),
	})
	c.Prune(time.Now())
	return c
}

// hardware names this machine's processors: what a replica carries was learned
// on them.
func hardware() string {
	kind := runtime.GOARCH
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "model name"); ok {
				kind += name
				break
			}
		}
	}
	h := fnv.New32a()
	h.Write([]byte(kind))
	return fmt.Sprintf("%s-%d-%08x", runtime.GOARCH, runtime.NumCPU(), h.Sum32())
}
