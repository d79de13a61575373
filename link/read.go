package link

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// A reader cuts a byte stream into frames. A payload is valid until the next one.
type reader struct {
	src        io.Reader
	buf        []byte
	start, end int // unread bytes are buf[start:end]
}

func newReader(src io.Reader) *reader { return &reader{src: src, buf: make([]byte, 32<<10)} }

// next waits for a frame and returns it.
func (r *reader) next() (header, []byte, error) {
	for {
		h, payload, need, err := r.cut()
		if need == 0 {
			return h, payload, err
		}
		r.makeRoom(need)
		n, err := r.src.Read(r.buf[r.end:])
		r.end += n
		if n == 0 && err != nil {
			return header{}, nil, r.ended(err)
		}
	}
}

// each waits for frames and calls f with one after another, until f fails or
// the stream ends.
func (r *reader) each(f func(header, []byte) error) error {
	if s, ok := r.src.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			return r.poll(raw, f)
		}
	}
	return r.loop(f)
}

func (r *reader) loop(f func(header, []byte) error) error {
	for {
		h, payload, err := r.next()
		if err == nil {
			err = f(h, payload)
		}
		if err != nil {
			return err
		}
	}
}

// hangUp ends nc for both sides, from any goroutine and without waiting; its
// reader, which then ends, closes it. Close itself would wait for a reader that
// is in poll, which may be who calls.
func hangUp(nc net.Conn) {
	s, ok := nc.(interface {
		CloseRead() error
		CloseWrite() error
	})
	if !ok {
		nc.Close()
		return
	}
	_ = s.CloseWrite()
	_ = s.CloseRead()
}

// handle calls f with the frames that are there.
func (r *reader) handle(f func(header, []byte) error) (need int, err error) {
	for {
		h, payload, need, err := r.cut()
		if need > 0 {
			return need, nil
		}
		if err == nil {
			err = f(h, payload)
		}
		if err != nil {
			return 0, err
		}
	}
}

// cut takes the next frame out of the buffer. If it is not whole yet, need is
// how many bytes there must be.
func (r *reader) cut() (h header, payload []byte, need int, err error) {
	have := r.buf[r.start:r.end]
	if len(have) < headerSize {
		return header{}, nil, headerSize, nil
	}
	if h, err = parseHeader(have); err != nil {
		return h, nil, 0, err
	}
	size := headerSize + h.size
	if len(have) < size {
		return h, nil, size, nil
	}
	r.start += size
	return h, have[headerSize:size], 0, nil
}

// makeRoom makes sure that n bytes fit, and that whatever room there is lies behind end.
func (r *reader) makeRoom(n int) {
	buf := r.buf
	if len(buf) < n {
		buf = make([]byte, maxFrame+headerSize)
	} else if r.start == 0 {
		return
	}
	r.end = copy(buf, r.buf[r.start:r.end])
	r.start, r.buf = 0, buf
}

// ended is err, or that the stream ended within a frame.
func (r *reader) ended(err error) error {
	if errors.Is(err, io.EOF) && r.end > r.start {
		return io.ErrUnexpectedEOF
	}
	return err
}
