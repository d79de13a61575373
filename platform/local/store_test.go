package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/platform/storetest"
	"loadline.dev/loadline/serving"
)

func openStore(t *testing.T, path string) *Store {
	t.Helper()
	s, err := OpenStore(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStorePasses(t *testing.T) {
	fresh := func(t *testing.T) *Store { return openStore(t, filepath.Join(t.TempDir(), "a b%?#.db")) }
	storetest.Run(t, func(t *testing.T) control.Store { return fresh(t) })
	storetest.RunDrawer(t, func(t *testing.T) control.Drawer { return fresh(t).Drawer("x") })
}

func TestDrawersShareNoKeys(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"))
	if err := s.Drawer("a").Put(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Drawer("b").Get(t.Context(), "k"); !errors.Is(err, serving.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestStoreSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openStore(t, path)
	if _, err := s.Create(t.Context(), serving.Endpoint{Tenant: "default", Name: "iris"}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := openStore(t, path).Get(t.Context(), "default", "iris"); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openStore(t, path)
	if _, err := s.write.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := OpenStore(t.Context(), path); !errors.Is(err, serving.Invalid) || !strings.Contains(err.Error(), "newer loadline") {
		t.Errorf("got %v", err)
	}
}

func TestDamagedFileIsSetAsideAndNeverSilentlyEmptied(t *testing.T) {
	for how, spoil := range map[string]func([]byte) []byte{
		"a page is overwritten": func(b []byte) []byte {
			for i := 4096; i < len(b); i++ {
				b[i] ^= 0xa5
			}
			return b
		},
		"the header is not SQLite's": func(b []byte) []byte { return append([]byte("hello, world. hello, world."), b[27:]...) },
		"the tail is cut off":        func(b []byte) []byte { return b[:4096+100] },
	} {
		t.Run(how, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.db")
			s := openStore(t, path)
			for i := range 50 {
				e := serving.Endpoint{Tenant: "default", Name: "e" + strconv.Itoa(i), Description: strings.Repeat("x", 1000)}
				if _, err := s.Create(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, spoil(text), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second start does not begin with nothing either
				_, err = OpenStore(t.Context(), path)
				aside, _ := filepath.Glob(path + ".corrupt-*")
				if err == nil || len(aside) == 0 || !strings.Contains(err.Error(), aside[0]) || serving.FixOf(err) == "" {
					t.Fatalf("got %v; set aside are %v", err, aside)
				}
			}
		})
	}
}

func TestFlippedBitInARecordIsNoticed(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"))
	if _, err := s.Create(t.Context(), serving.Endpoint{Tenant: "default", Name: "iris", Creator: "ann"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.write.Exec(`UPDATE endpoints SET record = replace(record, 'ann', 'amn')`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "default", "iris"); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("got %v", err)
	}
}

// A disk that takes no more lets writes fail with advice while reads go on, and
// needs no restart when it is mended.
func TestFullDiskStopsWritesOnly(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"))
	made, err := s.Create(t.Context(), serving.Endpoint{Tenant: "default", Name: "iris"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.write.Exec("PRAGMA max_page_count = 1"); err != nil {
		t.Fatal(err)
	}
	big := made
	big.Description = strings.Repeat("x", 1<<20)
	if _, err := s.Update(t.Context(), big); !errors.Is(err, serving.Unavailable) || serving.FixOf(err) == "" {
		t.Errorf("update: got %v, want unavailable", err)
	}
	if err := s.Drawer("a").Put(t.Context(), "k", make([]byte, 1<<20)); !errors.Is(err, serving.Unavailable) {
		t.Errorf("put: got %v, want unavailable", err)
	}
	if e, err := s.Get(t.Context(), "default", "iris"); err != nil || e.Version != 1 {
		t.Errorf("get: %+v, %v", e, err)
	}
	if _, err := s.write.Exec("PRAGMA max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), big); err != nil {
		t.Errorf("after mending: %v", err)
	}
}

// Cut off at any byte of its journal, as a loss of power may, the file opens
// with a prefix of what was written: nothing torn, nothing out of order.
func TestLossOfPowerLeavesAPrefix(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.db")
	s := openStore(t, path)
	e, err := s.Create(t.Context(), serving.Endpoint{Tenant: "default", Name: "iris"})
	if err != nil {
		t.Fatal(err)
	}
	var ends []int64 // of the journal after each acknowledged write
	size := func() int64 {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	ends = append(ends, size())
	for range 10 {
		if e, err = s.Update(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, size())
	}
	main, journal := read(t, path), read(t, path+"-wal")
	for cut := ends[0]; cut <= int64(len(journal)); cut += 509 { // a prime: every place within a frame is met
		copied := filepath.Join(t.TempDir(), "s.db")
		write(t, copied, main)
		write(t, copied+"-wal", journal[:cut])
		acknowledged := int64(0)
		for _, end := range ends {
			if end <= cut {
				acknowledged++
			}
		}
		back, err := OpenStore(context.Background(), copied)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		got, err := back.Get(t.Context(), "default", "iris")
		back.Close()
		if err != nil || got.Version != acknowledged {
			t.Errorf("cut at %d: version %d, %v, want %d", cut, got.Version, err, acknowledged)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSecondLoadlineIsRefusedByName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := LockData(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LockData(dir)
	want := "another loadline holds " + dir + ", pid " + strconv.Itoa(os.Getpid())
	if !errors.Is(err, serving.Conflict) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second, err := LockData(dir)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}
