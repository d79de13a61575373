package link

import (
	"io"
	"sync"
)

// eager is how many queued bytes are written without being asked to.
const eager = 32 << 10

// A pipe is what both ends of a stream have: body bytes that came and were not
// yet read, and a window for those that go. One goroutine may read and one may
// write at a time; anyone may end it.
type pipe struct {
	out *sender

	mu      sync.Mutex
	id      uint32 // zero when the pipe is not in use
	in      []byte // received; in[off:] is unread
	off     int
	allow   int  // bytes the other side may still send
	unsaid  int  // bytes read here that the other side does not know of
	ended   bool // no more will be received
	drained bool // and whoever reads was told
	window  int  // bytes this side may still send
	closed  bool // this side sends no more

	// err is why the stream is over before its time. What was received before
	// can still be read unless drop was asked for.
	err error

	wake chan struct{} // a token: something changed for the one who reads
	room chan struct{} // a token: something changed for the one who writes
}

func (p *pipe) init(out *sender) {
	p.out = out
	p.wake, p.room = make(chan struct{}, 1), make(chan struct{}, 1)
}

// reset readies the pipe for the stream id. The buffer stays.
func (p *pipe) reset(id uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cap(p.in) > maxChunk {
		p.in = nil
	}
	p.id, p.in, p.off = id, p.in[:0], 0
	p.allow, p.window, p.unsaid = Window, Window, 0
	p.ended, p.drained, p.closed, p.err = false, false, false, nil
	drain(p.wake)
	drain(p.room)
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// deliver takes received body bytes. It is false when the sender went beyond
// its window or its own end.
func (p *pipe) deliver(id uint32, data []byte, end bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id != id || p.err != nil {
		return true // over; the other side does not know yet
	}
	if p.ended || len(data) > p.allow {
		return false
	}
	p.allow -= len(data)
	if p.off > 0 && len(p.in)+len(data) > cap(p.in) {
		p.in = p.in[:copy(p.in, p.in[p.off:])]
		p.off = 0
	}
	p.in = append(p.in, data...)
	p.ended = end
	nudge(p.wake)
	return true
}

// widen lets this side send n more bytes.
func (p *pipe) widen(id uint32, n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id != id {
		return true
	}
	if n > Window-p.window {
		return false
	}
	p.window += n
	nudge(p.room)
	return true
}

// end ends the stream with err, once. Both sides of it wake up.
func (p *pipe) end(id uint32, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id != id || p.err != nil {
		return false
	}
	p.err = err
	nudge(p.wake)
	nudge(p.room)
	return true
}

func (p *pipe) read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, said, err := p.take(b)
		if said > 0 {
			p.out.commit(appendNumbers(p.out.begin(), kindWindow, p.id, uint64(said)), true)
		}
		if n > 0 || err != nil {
			return n, err
		}
		<-p.wake
	}
}

// take copies what is there. said is what the other side must be told was read.
func (p *pipe) take(b []byte) (n, said int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = copy(b, p.in[p.off:])
	p.off += n
	if p.off == len(p.in) {
		p.in, p.off = p.in[:0], 0
	}
	p.unsaid += n
	switch {
	case n == 0 && p.ended:
		p.drained = true
		return 0, 0, io.EOF
	case n == 0 && p.err != nil:
		return 0, 0, p.err
	case p.unsaid >= Window/2 && !p.ended && p.err == nil:
		said, p.unsaid = p.unsaid, 0
		p.allow += said
	}
	return n, said, nil
}

// write sends b as the window allows, and waits where it does not.
func (p *pipe) write(b []byte, end, flush bool) error {
	for {
		n, err := p.claim(min(len(b), maxChunk))
		if err != nil {
			return err
		}
		if n == 0 && len(b) > 0 {
			if err := p.out.flush(); err != nil {
				return err
			}
			<-p.room
			continue
		}
		var flags uint8
		last := n == len(b)
		if last && end {
			flags = flagEnd
			p.mu.Lock()
			p.closed = true
			p.mu.Unlock()
		}
		if n > 0 || flags != 0 {
			queue := appendData(p.out.begin(), p.id, b[:n], flags)
			if err := p.out.commit(queue, flush && last || len(queue) >= eager); err != nil {
				return err
			}
		}
		if b = b[n:]; last {
			return nil
		}
	}
}

// claim takes up to n bytes of the window.
func (p *pipe) claim(n int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return 0, p.err
	case p.closed:
		return 0, io.ErrClosedPipe
	}
	n = min(n, p.window)
	p.window -= n
	return n, nil
}
