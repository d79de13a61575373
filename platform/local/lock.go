package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"loadline.dev/loadline/serving"
)

// A Lock keeps a second loadline from using the same data folder. The kernel
// drops it with the process, however that ends.
type Lock struct{ file *os.File }

// LockData takes the lock of a data folder, making the folder (for its owner
// only) when there is none.
func LockData(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &serving.Error{Op: "data folder", Subject: dir, Kind: serving.Unavailable, Err: err,
			Fix: "choose a folder that can be written: loadline up --data DIR"}
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &serving.Error{Op: "lock", Subject: path, Kind: serving.Unavailable, Err: err,
			Fix: "choose a folder that can be written: loadline up --data DIR"}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := readPID(f)
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &serving.Error{Op: "lock", Subject: path, Kind: serving.Unavailable, Err: err}
		}
		return nil, &serving.Error{Op: "lock", Subject: dir, Kind: serving.Conflict,
			Err: fmt.Errorf("another loadline holds %s, pid %s", dir, holder),
			Fix: "stop it (kill " + holder + "), or use another folder: --data DIR"}
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(pid), 0)
		if err != nil { // a full disk must not keep the server from starting: the lock holds without the number
			_ = f.Truncate(0)
		}
	}
	return &Lock{f}, nil
}

func readPID(f *os.File) string {
	text := make([]byte, 20)
	n, _ := f.ReadAt(text, 0) // what cannot be read is shown as unknown
	if pid := strings.TrimSpace(string(text[:n])); pid != "" {
		return pid
	}
	return "unknown"
}

// Release gives the lock back.
func (l *Lock) Release() error { return l.file.Close() }
