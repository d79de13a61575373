package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"
)

// A body reads an answer's body to where its head said it ends.
type body struct {
	in      *bufio.Reader
	left    int64 // of the body or the chunk; -1: to the end of the connection
	chunked bool
	began   bool // the first chunk's size was read
	done    bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	if b.chunked {
		return b.readChunk(p)
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.left > 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.in.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (b *body) readChunk(p []byte) (int, error) {
	if !b.began || b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
		if b.done {
			return 0, io.EOF
		}
	}
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if b.left == 0 && err == nil {
		err = b.lineEnd()
	}
	return n, err
}

func (b *body) lineEnd() error {
	var end [2]byte
	if _, err := io.ReadFull(b.in, end[:]); err != nil {
		return io.ErrUnexpectedEOF
	}
	if end != [2]byte{'\r', '\n'} {
		return bad("a chunk is longer than its size")
	}
	return nil
}

// nextChunk reads a chunk's size; the last one's trailer is read and dropped.
func (b *body) nextChunk() error {
	b.began = true
	budget := maxExtra + 18
	line, err := readLine(b.in, &budget)
	if err != nil {
		return err
	}
	digits, _, _ := bytes.Cut(line, []byte(";"))
	digits = bytes.TrimRight(digits, " \t")
	size, err := strconv.ParseUint(string(digits), 16, 62)
	if err != nil || len(digits) > 15 || digits[0] == '+' {
		return bad("chunk size %.20q", digits)
	}
	b.left = int64(size)
	if size > 0 {
		return nil
	}
	budget = maxTrailer
	for {
		line, err := readLine(b.in, &budget)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			b.done = true
			return nil
		}
		if _, err := parseField(line); err != nil {
			return err
		}
	}
}

// An upload is the sending of a request's body, beside the reading of its answer.
type upload struct {
	mu       sync.Mutex
	complete bool
	err      error // why the request could not be read; nil otherwise
}

func (u *upload) finish() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.complete = true
}

func (u *upload) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

// done says whether the whole request has been sent.
func (u *upload) done() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.complete
}

func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}
