package link

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
)

// maxQueue bounds what may wait for a peer that does not read. Windows keep
// body bytes far below it.
const maxQueue = 64 << 20

var errUnread = errors.New("the other side does not read")

// A sender batches writes. Callers append frames under its lock; one who finds
// no write under way writes all that is there himself, which at low load costs
// no hand-off. While other requests are under way, he first lets those run that
// are ready to: what they append goes into the same write. What gathers while
// he writes goes to the sender's own goroutine, so that nobody writes for
// others for long.
type sender struct {
	conn   net.Conn
	others atomic.Int32 // requests under way beside that of whoever flushes

	mu      sync.Mutex
	queue   []byte
	spare   []byte
	writing bool
	writes  uint64 // finished so far; see progress
	sent    uint64 // bytes that the kernel took
	behind  uint64 // bytes of the write under way, which are in queue no more
	err     error

	more chan struct{} // a token says: write on
	quit chan struct{}
	done chan struct{}
}

func newSender(conn net.Conn) *sender {
	s := &sender{conn: conn, more: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

// begin locks the sender and returns the queue to append whole frames to;
// commit takes it back.
func (s *sender) begin() []byte {
	s.mu.Lock()
	return s.queue
}

// commit unlocks. Without flush nothing is written: the frames wait for the next
// one that flushes.
func (s *sender) commit(queue []byte, flush bool) error {
	s.queue = queue
	if s.err == nil && len(queue) > maxQueue {
		s.failLocked(errUnread)
	}
	if s.err != nil {
		s.queue = nil
		err := s.err
		s.mu.Unlock()
		return err
	}
	if s.writing || !flush || len(queue) == 0 {
		s.mu.Unlock()
		return nil
	}
	s.writing = true
	if s.others.Load() > 0 {
		s.gatherLocked()
	}
	s.writeLocked()
	if s.writing = len(s.queue) > 0 && s.err == nil; s.writing {
		s.more <- struct{}{} // has room: nobody else sends while writing is set
	}
	err := s.err
	s.mu.Unlock()
	return err
}

// gatherLocked lets others append, without the lock while they do: those who
// are ready to run, for as long as that brings something.
func (s *sender) gatherLocked() {
	for range maxYields {
		had := len(s.queue)
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
		if len(s.queue) == had {
			return
		}
	}
}

// maxYields bounds how often a write gives way. Now and then the scheduler lets
// go on who gave way before the others have run, hence more than once.
const maxYields = 3

func (s *sender) flush() error { return s.commit(s.begin(), true) }

// run goes on where a caller left off.
func (s *sender) run() {
	defer close(s.done)
	for {
		select {
		case <-s.quit:
			return
		case <-s.more:
		}
		s.mu.Lock()
		for len(s.queue) > 0 && s.err == nil {
			s.writeLocked()
		}
		s.writing = false
		s.mu.Unlock()
	}
}

// writeLocked writes what is queued, without the lock while it does.
func (s *sender) writeLocked() {
	batch := s.queue
	s.queue, s.spare = s.spare, nil
	s.behind = uint64(len(batch))
	s.mu.Unlock()
	n, err := s.conn.Write(batch)
	s.mu.Lock()
	s.writes++
	s.sent, s.behind = s.sent+uint64(n), 0
	if cap(batch) <= 1<<20 {
		s.spare = batch[:0]
	}
	if err != nil {
		s.failLocked(err)
	}
}

// failLocked ends the connection; its reader notices.
func (s *sender) failLocked(err error) {
	if s.err == nil {
		s.err = err
		hangUp(s.conn)
	}
}

// stop ends the sender's goroutine. Nothing is written afterwards.
func (s *sender) stop(err error) {
	s.mu.Lock()
	s.failLocked(err)
	s.mu.Unlock()
	close(s.quit)
	<-s.done
}

// progress says whether a write is under way and how many have ended, for
// whoever looks again later to see whether it is still the same one.
func (s *sender) progress() (writing bool, writes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writing, s.writes
}

// mark is how many bytes come before what is appended next. It is called
// between begin and commit.
func (s *sender) mark() uint64 { return s.sent + s.behind + uint64(len(s.queue)) }

// passed says whether any byte after the mark was, or may yet be, given to the kernel.
func (s *sender) passed(mark uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent+s.behind > mark
}

// gone says whether the kernel has bytes after the mark.
func (s *sender) gone(mark uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent > mark
}

// failed is why nothing can be sent any more, or nil.
func (s *sender) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
