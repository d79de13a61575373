package faults

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"loadline.dev/loadline/test/harness"
)

// These tests end the shared server and start it again, so they are not run in
// parallel: the others begin when they are through.

// FAULTS 9: the server is killed under load. Its replicas go on, the next
// server adopts them, and nothing is left over.
func TestKilledServerFindsItsReplicasAgain(t *testing.T) {
	need(t)
	names := []string{"witness", "brute", "puppet"}
	before := map[string]replica{}
	for _, name := range names {
		before[name] = shared.replicas(t, name)[0]
	}
	processes := len(shared.processes())
	stop := load(t, shared, names)
	defer stop()
	if err := shared.server.Kill(); err != nil {
		t.Fatal(err)
	}
	for name, r := range before {
		if !harness.Alive(r.PID) || !harness.Alive(r.Engine) {
			t.Errorf("%s ended with the server", name)
		}
	}
	start := time.Now()
	if err := shared.up(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		eventually(t, 5*time.Second, func() error {
			a, err := shared.ask(t.Context(), name, map[bool]string{true: rows(order{"do": "own"}), false: `{"do": "own"}`}[name == "puppet"])
			if err == nil && a.status != 200 {
				err = fmt.Errorf("%s answers %d %s", name, a.status, a.body)
			}
			return err
		})
	}
	t.Logf("all answered %v after the server was started again", time.Since(start).Round(time.Millisecond))
	stop()
	for _, name := range names {
		if after := shared.settle(t, name, 1)[0]; after.PID != before[name].PID || after.Engine != before[name].Engine {
			t.Errorf("%s was %+v, and is %+v", name, before[name], after)
		}
	}
	eventually(t, 5*time.Second, func() error {
		if now := len(shared.processes()); now != processes {
			return fmt.Errorf("%d processes before, %d after", processes, now)
		}
		return nil
	})
}

// load asks endpoints without pause until stop. What is answered must be well:
// a server that is gone answers nothing.
func load(t *testing.T, h *house, names []string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var tasks sync.WaitGroup
	for _, name := range names {
		for range 4 {
			tasks.Go(func() {
				for ctx.Err() == nil {
					body := `{"do": "sleep", "seconds": 0.01}`
					if name == "puppet" {
						body = rows(order{"do": "sleep", "seconds": 0.01})
					}
					a, err := h.ask(context.WithoutCancel(ctx), name, body)
					if err != nil { // nobody is there
						time.Sleep(20 * time.Millisecond)
					} else if a.status != 200 {
						t.Errorf("%s answered %d %s", name, a.status, a.body)
						return
					}
				}
			})
		}
	}
	return sync.OnceFunc(func() { cancel(); tasks.Wait() })
}

// FAULTS 24: the package index is gone. What was deployed once is deployed and
// started without it; what is new fails, names the host, and disturbs nobody.
func TestWithoutPackageIndexKnownVersionsServe(t *testing.T) {
	need(t)
	shared.server.Stop()
	const nobody = "http://127.0.0.1:9/simple"
	shared.env = []string{"UV_DEFAULT_INDEX=" + nobody, "UV_INDEX=", "UV_FIND_LINKS=", "UV_HTTP_RETRIES=0"}
	defer func() { shared.env = nil }()
	if err := shared.up(); err != nil {
		t.Fatal(err)
	}
	shared.must(t, "wait", "puppet", "--for", "ready", "--timeout", "60s")
	shared.watch(t)
	shared.must(t, "deploy", "again", model("puppet"), "--env", "AGAIN=yes")
	shared.must(t, "delete", "again", "--yes")
	engine := shared.replicas(t, "puppet")[0].Engine
	s := shared.run("deploy", "puppet", model("packages"))
	if s.code != 1 || !strings.Contains(s.out, "127.0.0.1:9") || !strings.Contains(s.out, "package index") || !strings.Contains(s.out, "goes on serving") {
		t.Errorf("exit code %d:\n%s", s.code, s.out)
	}
	if a := shared.puppet(t, "puppet", order{"do": "own"}); a.status != 200 || shared.replicas(t, "puppet")[0].Engine != engine {
		t.Errorf("the old version answers %d %s", a.status, a.body)
	}
}

// FAULTS 35: what rots on the disk is not served. It is brought back from where
// it came, or its name is told.
func TestDamagedFilesAreNeverServed(t *testing.T) {
	need(t)
	shared.server.Stop()
	damaged := map[string][]byte{}
	for _, pattern := range []string{"models/*/brute.py", "envs/*/lib/python3*/site-packages/itsdangerous/signer.py"} {
		found, err := filepath.Glob(filepath.Join(shared.data, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		for _, path := range found {
			damaged[path] = flip(t, path)
		}
	}
	if err := shared.up(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"witness", "brute", "puppet"} {
		shared.must(t, "wait", name, "--for", "ready", "--timeout", "90s")
	}
	for path, whole := range damaged {
		if now, err := os.ReadFile(path); err != nil || !slices.Equal(now, whole) {
			t.Errorf("%s is as it was damaged: %v", path, err)
		}
	}
	for name, body := range map[string]string{"brute": `{"do": "own"}`, "puppet": rows(order{"do": "own"})} {
		if a := shared.get(t, name, body); a.status != 200 {
			t.Errorf("%s answers %d %s", name, a.status, a.body)
		}
	}
}

// flip changes one bit of a file, and returns what it was. The file is written
// anew: the old one may be linked into a cache that others use.
func flip(t *testing.T, path string) []byte {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(whole)
	bad[len(bad)/2] ^= 1
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.Chmod(dir, 0o700), os.Remove(path), os.WriteFile(path, bad, 0o600), os.Chmod(path, 0o444), os.Chmod(dir, info.Mode()))
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

// FAULTS 35, where it cannot be brought back.
func TestDamageThatCannotBeMendedIsNamed(t *testing.T) {
	need(t)
	h := ownHouse(t)
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "brute")
	if err := os.CopyFS(source, os.DirFS(model("brute"))); err != nil {
		t.Fatal(err)
	}
	h.must(t, "deploy", "lost", source, "--command", brute, "--health", "/")
	h.server.Stop()
	found, _ := filepath.Glob(filepath.Join(h.data, "models", "*", "brute.py"))
	for _, path := range found {
		flip(t, path)
	}
	if err := os.RemoveAll(source); err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		a := h.get(t, "lost", `{"do": "own"}`)
		d := h.describe(t, "lost")
		if a.status == 200 {
			t.Fatalf("what is damaged is served: %s", a.body)
		}
		said := a.body + fmt.Sprint(d.Entities)
		if !strings.Contains(said, "brute.py") && !strings.Contains(said, source) {
			return fmt.Errorf("nobody is told what is wrong: %d %s\n%+v", a.status, a.body, d)
		}
		return nil
	})
}

// FAULTS 37: the server is killed while an environment is built, and again
// while it is tried. The next one goes on; nobody ever sees half of one.
func TestKilledBuildIsTakenUpAgain(t *testing.T) {
	need(t)
	h := ownHouse(t)
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	h.must(t, "deploy", "late", model("puppet"), "--no-wait")
	for _, pattern := range []string{"tmp/lock-*/*", "tmp/env-*/env/bin", "trials/prove-*"} {
		eventually(t, 60*time.Second, func() error {
			found, _ := filepath.Glob(filepath.Join(h.data, pattern))
			if len(found) == 0 {
				return fmt.Errorf("%s never was", pattern)
			}
			return nil
		})
		if err := h.server.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, func() error {
			if left := h.processes(); len(left) > 0 {
				return fmt.Errorf("processes %v are left", left)
			}
			return nil
		})
		envs, _ := filepath.Glob(filepath.Join(h.data, "envs", "*"))
		for _, env := range envs {
			if _, err := os.Stat(filepath.Join(env, "loadline.files")); err != nil {
				t.Errorf("half an environment is left: %v", err)
			}
		}
		if err := h.up(); err != nil {
			t.Fatal(err)
		}
	}
	h.must(t, "wait", "late", "--for", "updated", "--timeout", "60s")
	if a := h.puppet(t, "late", order{"do": "own"}); a.status != 200 {
		t.Errorf("it answers %d %s", a.status, a.body)
	}
	for _, folder := range []string{"tmp", "trials"} {
		entries, err := os.ReadDir(filepath.Join(h.data, folder))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				t.Errorf("%s/%s is left over", folder, e.Name())
			}
		}
	}
}

// FAULTS 12: the disk is full. What serves goes on, what must be written is
// refused with 503, and all is well again when there is room, without a restart.
func TestFullDiskRefusesWritesAndServesOn(t *testing.T) {
	need(t)
	h := ownHouse(t)
	if err := syscall.Mount("tmpfs", h.data, "tmpfs", 0, "size=64m,mode=700"); err != nil {
		t.Skipf("this machine lets nobody mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(h.data, syscall.MNT_DETACH) })
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	h.must(t, "deploy", "witness", model("brute"), "--command", brute, "--health", "/")
	h.watch(t)
	filler := filepath.Join(h.data, "filler")
	if err := os.WriteFile(filler, make([]byte, 80<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	order := order{"model": model("brute"), "command": brute, "health": "/", "env": order{"GREETING": "two"}}.text()
	eventually(t, 10*time.Second, func() error { // the last free pages of the log are filled first
		status, header, body := h.call(t, "PUT", "/api/loadline/v1/endpoints/other", order)
		if status == 503 && header.Get("Retry-After") != "" && strings.Contains(body, "space") {
			return nil
		}
		h.run("delete", "other", "--yes")
		return fmt.Errorf("a write is answered %d %s", status, body)
	})
	if status, _, body := h.call(t, "GET", "/api/2.0/serving-endpoints", ""); status != 200 {
		t.Errorf("a list is answered %d %s", status, body)
	}
	if a := h.brute(t, "witness", map[string]any{"do": "sleep", "seconds": 0}); a.status != 200 {
		t.Errorf("a request is answered %d %s", a.status, a.body)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		if s := h.run("deploy", "third", model("brute"), "--command", brute, "--health", "/"); s.code != 0 {
			return fmt.Errorf("there is room, and still: %s", s.out)
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(h.data, "loadline.db")); errors.Is(err, fs.ErrNotExist) {
		t.Error("the store is gone")
	}
}
