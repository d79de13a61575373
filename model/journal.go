package model

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// A journal remembers which pieces of a download are on disk, and their
// sums: a piece is believed after a crash only if it still has its sum.
type journal struct {
	mu   sync.Mutex
	file *os.File
	sums map[[2]int64]string // {file, piece} → hex sha256
}

var errOtherListing = errors.New("the journal is of another listing")

// listing names what is downloaded and how it is cut.
func listing(files []File, piece int64) string {
	h := sha256.New()
	fmt.Fprintln(h, piece)
	for _, f := range files {
		fmt.Fprintln(h, f.Size, f.Path)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func openJournal(name, listing string) (*journal, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{file: f, sums: map[[2]int64]string{}}
	s := bufio.NewScanner(f)
	if !s.Scan() {
		_, err := fmt.Fprintln(f, listing)
		return j, err
	}
	if s.Text() != listing {
		_ = f.Close()
		return nil, errOtherListing
	}
	for s.Scan() {
		// The last line may have been cut off by the crash.
		var i, n int64
		var sum string
		if k, _ := fmt.Sscan(s.Text(), &i, &n, &sum); k == 3 && len(sum) == 2*sha256.Size {
			j.sums[[2]int64{i, n}] = sum
		}
	}
	// What follows must not continue such a line.
	_, err = f.WriteString("\n")
	return j, err
}

func (j *journal) sum(file int, piece int64) (string, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	sum, ok := j.sums[[2]int64{int64(file), piece}]
	return sum, ok
}

func (j *journal) note(file int, piece int64, sum string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := j.file.WriteString(strings.Join([]string{fmt.Sprint(file), fmt.Sprint(piece), sum}, " ") + "\n")
	return err
}

func (j *journal) close() { _ = j.file.Close() } // it is only read again by a next try, which believes nothing unproven
