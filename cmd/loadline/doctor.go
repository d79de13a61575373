package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/internal/sandbox"
	"loadline.dev/loadline/pyenv"
)

// A finding is what one check saw.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"` // ok, weak (works, but less than it could), fault
	Found string `json:"found"`
	Fix   string `json:"fix,omitempty"`
}

func doctorCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check this machine, and say what to do about each fault", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			findings := s.examine(ctx)
			if err := s.print(findings, func(w io.Writer) { s.showFindings(w, findings) }); err != nil {
				return err
			}
			faults := 0
			for _, f := range findings {
				if f.State == "fault" {
					faults++
				}
			}
			if faults > 0 {
				return &fault{exit: exitFailed, what: fmt.Sprintf("%d of %d checks found a fault", faults, len(findings)),
					fix: "do what stands beside each, then: loadline doctor"}
			}
			return nil
		},
	}
}

func (s *shell) showFindings(w io.Writer, findings []finding) {
	var rows [][]string
	for _, f := range findings {
		rows = append(rows, []string{f.State, f.Check, f.Found})
		if f.Fix != "" {
			rows = append(rows, []string{"", "", "fix: " + f.Fix})
		}
	}
	s.columns(w, rows)
}

// examine runs all checks, the slow ones side by side.
func (s *shell) examine(ctx context.Context) []finding {
	checks := []func(context.Context) []finding{
		s.checkPythons, s.checkUV, s.checkIndex, s.checkData, s.checkLimits, checkKernel, s.checkTracking, s.checkServer,
	}
	results := make([][]finding, len(checks))
	var all sync.WaitGroup
	for i, check := range checks {
		all.Go(func() { results[i] = check(ctx) })
	}
	all.Wait()
	var list []finding
	for _, r := range results {
		list = append(list, r...)
	}
	return list
}

func (s *shell) checkPythons(ctx context.Context) []finding {
	found := pyenv.Interpreters(ctx)
	if len(found) == 0 {
		return []finding{{"interpreters", "fault", "no Python 3.8 or later on PATH, with pyenv or with uv",
			"install Python 3.11, for instance: uv python install 3.11"}}
	}
	var seen []string
	for _, i := range found {
		seen = append(seen, i.Version)
	}
	return []finding{{"interpreters", "ok", "Python " + strings.Join(seen, ", "), ""}}
}

// uv is the program that environments are built with, if it is there already.
func (s *shell) uv() string {
	if path := s.settings.text("uv"); path != "" {
		return path
	}
	if dir, err := s.data(); err == nil {
		if kept, _ := filepath.Glob(filepath.Join(dir, "tools", "uv*", "bin", "uv")); len(kept) > 0 {
			return kept[0]
		}
	}
	path, _ := exec.LookPath("uv") // absent is empty
	return path
}

func (s *shell) checkUV(ctx context.Context) []finding {
	path := s.uv()
	if path == "" {
		return []finding{{"uv", "weak", "not found; it is installed into the data folder when it is first needed", "pip install uv"}}
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return []finding{{"uv", "fault", fmt.Sprintf("%s does not run: %v", path, err), "pip install uv"}}
	}
	return []finding{{"uv", "ok", strings.TrimSpace(string(out)) + " at " + path, ""}}
}

// checkIndex asks the package index that uv is set up for, whichever that is.
func (s *shell) checkIndex(ctx context.Context) []finding {
	path := s.uv()
	if path == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	dir, err := os.MkdirTemp("", "loadline-doctor-")
	if err != nil {
		return []finding{{"package index", "fault", err.Error(), "make room in the temporary folder"}}
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, path, "pip", "compile", "--quiet", "--no-cache", "--no-python-downloads", "-")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader("mlflow-skinny\n")
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return []finding{{"package index", "fault", "mlflow-skinny does not resolve: " + lastOf(out, err),
			"set UV_INDEX_URL or UV_DEFAULT_INDEX to an index that can be reached; models whose environment is built already go on working"}}
	}
	return []finding{{"package index", "ok", "answers (" + took(time.Since(began)) + ")", ""}}
}

func lastOf(out []byte, err error) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return last
	}
	return err.Error()
}

// Space for one more environment, and the longest path that a Unix socket of
// a replica may have on every system.
const (
	fewBytes  = 5 << 30
	tooFew    = 1 << 30
	longestAt = 60
)

func (s *shell) checkData(context.Context) []finding {
	dir, err := s.data()
	if err != nil {
		return []finding{{"data folder", "fault", err.Error(), "export LOADLINE_DATA=/some/folder"}}
	}
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	list := []finding{{"data folder", "ok", dir, ""}}
	if err := writable(at); err != nil {
		list[0] = finding{"data folder", "fault", fmt.Sprintf("%s cannot be written: %v", at, reason(err)), "export LOADLINE_DATA=/some/folder"}
	} else if len(dir) > longestAt {
		list[0] = finding{"data folder", "weak", fmt.Sprintf("%s is long for the sockets in it", dir), "choose a shorter LOADLINE_DATA"}
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(at, &st); err != nil {
		return append(list, finding{"disk", "fault", err.Error(), "check the disk of " + at})
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // the types differ between systems
	f := finding{"disk", "ok", fmt.Sprintf("%.1f GB free", float64(free)/1e9), ""}
	switch {
	case free < tooFew:
		f.State, f.Fix = "fault", "make room: an environment takes about 1 GB"
	case free < fewBytes:
		f.State, f.Fix = "weak", "make room: an environment takes about 1 GB"
	}
	return append(list, f)
}

func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".loadline-doctor-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// enoughFiles is for a few thousand connections and the links of all replicas.
const enoughFiles = 4096

func (s *shell) checkLimits(context.Context) []finding {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return []finding{{"open files", "fault", err.Error(), ""}}
	}
	f := finding{"open files", "ok", fmt.Sprintf("%d", files.Cur), ""}
	if files.Cur < enoughFiles {
		f.State, f.Fix = "weak", fmt.Sprintf("ulimit -n %d", enoughFiles)
	}
	return []finding{f}
}

func checkKernel(context.Context) []finding {
	var list []finding
	for _, one := range holds(sandbox.Probe()) {
		f := finding{"isolation: " + one.name, "ok", "held", ""}
		if one.hold.Why != "" && one.hold.Held {
			f.Found += "; " + one.hold.Why
		}
		if !one.hold.Held {
			f.State, f.Found = "weak", "not held: "+one.hold.Why
			f.Fix = "serve only models you trust here, or use a machine where it holds"
		}
		list = append(list, f)
	}
	return append(list, finding{"system", "ok", runtime.GOOS + "/" + runtime.GOARCH, ""})
}

// checkTracking asks the MLflow server that names resolve at.
func (s *shell) checkTracking(ctx context.Context) []finding {
	uri := os.Getenv("MLFLOW_TRACKING_URI")
	if !strings.HasPrefix(uri, "http") {
		if uri == "" {
			return []finding{{"tracking server", "ok", "MLFLOW_TRACKING_URI is not set: folders and buckets only, or MLflow's default here", ""}}
		}
		return []finding{{"tracking server", "ok", "a local one, asked through MLflow itself", ""}}
	}
	return []finding{probeURL(ctx, "tracking server", strings.TrimRight(uri, "/")+"/health", "fault", "check MLFLOW_TRACKING_URI, and that the server runs")}
}

func (s *shell) checkServer(ctx context.Context) []finding {
	c, err := s.client()
	if err != nil {
		return []finding{{"server", "fault", err.Error(), "check LOADLINE_HOST"}}
	}
	return []finding{probeURL(ctx, "server", c.host+"/livez", "weak", "loadline up")}
}

func probeURL(ctx context.Context, name, url, bad, fix string) finding {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return finding{name, bad, err.Error(), fix}
	}
	began := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return finding{name, bad, err.Error(), fix}
	}
	resp.Body.Close()
	if resp.StatusCode >= 500 {
		return finding{name, bad, resp.Status, fix}
	}
	return finding{name, "ok", "answers (" + took(time.Since(began)) + ")", ""}
}
