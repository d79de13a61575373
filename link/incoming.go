package link

import (
	"io"
	"runtime"
)

// An Incoming is one request and its answer, on the agent's side. One
// goroutine may read while another writes; Fail may be called from anywhere.
// Neither it nor the texts of its Request may be used after the handler has
// returned: another request may be there then.
type Incoming struct {
	Request
	pipe
	peer    *peer
	life    life
	head    []byte        // what the texts of Request point into
	turn    chan struct{} // a token: a request has come; closed, none will
	replied bool          // guarded by pipe.mu
	over    bool          // so is this
}

// newIncoming makes one with a goroutine of its own, which carries one request
// after another.
func newIncoming(p *peer) *Incoming {
	in := &Incoming{peer: p, turn: make(chan struct{}, 1)}
	in.init(p.out)
	p.server.take(in)
	go in.run()
	return in
}

func (in *Incoming) run() {
	defer in.peer.server.drop(in)
	for range in.turn {
		in.carry()
		if !in.peer.keep(in) {
			return
		}
	}
}

func (in *Incoming) carry() {
	defer in.peer.server.leave(in.peer)
	defer in.life.end(nil)
	defer in.conclude()
	in.peer.server.handler(&in.life, in)
}

// clean reports whether nobody can be left who still reads or ends the request:
// its body was read to its end and its answer written to its end.
func (in *Incoming) clean() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.drained && in.err == ErrAnswered //nolint:errorlint // this very value
}

// Read reads the request's body. At its end it returns [io.EOF].
func (in *Incoming) Read(p []byte) (int, error) { return in.read(p) }

// Reply starts the answer. The head may wait until Flush, or the end of the
// answer, or until enough has gathered; so may what Write writes.
func (in *Incoming) Reply(a *Answer) error {
	if err := in.claimHead(); err != nil {
		return err
	}
	queue, err := appendAnswer(in.out.begin(), in.id, a, 0)
	if err != nil {
		in.out.commit(queue, false)
		in.mu.Lock()
		in.replied = false
		in.mu.Unlock()
		return err
	}
	return in.out.commit(queue, false)
}

func (in *Incoming) claimHead() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.err != nil:
		return in.err
	case in.replied || in.over:
		return io.ErrClosedPipe
	}
	in.replied = true
	return nil
}

// Given says that the request is about to be sent on to an engine: whoever sent
// it must not send it elsewhere from here on. It was said when Given returns,
// whatever becomes of this process.
func (in *Incoming) Given() error {
	queue := in.out.begin()
	mark := in.out.mark()
	err := in.out.commit(appendNumbers(queue, kindGiven, in.id), true)
	for err == nil && !in.out.gone(mark) { // somebody else is writing, and soon done
		runtime.Gosched()
		err = in.out.failed()
	}
	return err
}

// Write writes to the body of the answer, and waits while the gateway's window
// is full.
func (in *Incoming) Write(p []byte) (int, error) {
	if err := in.write(p, false, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush sends what waits.
func (in *Incoming) Flush() error { return in.out.flush() }

// Close ends the answer here and now. The place stays taken until the handler
// returns, which ends the answer too.
func (in *Incoming) Close() error { return in.close(true) }

func (in *Incoming) close(flush bool) error {
	in.mu.Lock()
	replied, over := in.replied, in.over
	in.over = true
	in.mu.Unlock()
	if over {
		return nil
	}
	if !replied {
		return in.dismiss(kindBroken, "no answer was given", flush)
	}
	err := in.write(nil, true, flush)
	in.peer.forget(in.id)
	in.end(in.id, ErrAnswered)
	return err
}

// conclude is what the handler's return does.
func (in *Incoming) conclude() { in.close(false) }

// Refuse gives the request back: the engine has seen no byte of it. After
// Reply it is Fail.
func (in *Incoming) Refuse(why string) {
	in.mu.Lock()
	replied, over := in.replied, in.over
	in.over = true
	in.mu.Unlock()
	k := kindRefuse
	if replied {
		k = kindBroken
	}
	if !over {
		_ = in.dismiss(k, why, true)
	}
}

// Fail says that the answer, or the rest of it, cannot come.
func (in *Incoming) Fail(why string) {
	in.mu.Lock()
	over := in.over
	in.over = true
	in.mu.Unlock()
	if !over {
		_ = in.dismiss(kindBroken, why, true)
	}
}

// dismiss ends the stream with a sentence, unless the gateway has ended it.
func (in *Incoming) dismiss(k kind, why string, flush bool) error {
	in.peer.forget(in.id)
	if !in.end(in.id, &BrokenError{Taken: k == kindBroken, Why: why}) {
		return nil
	}
	return in.out.commit(appendWhy(in.out.begin(), k, 0, in.id, why), flush)
}

func (in *Incoming) handle(h header, payload []byte) error {
	switch h.kind {
	case kindData:
		if !in.deliver(h.stream, payload, h.flags&flagEnd != 0) {
			return malformed("body beyond its window or its end")
		}
	case kindWindow:
		var n int
		if err := parseNumbers(payload, &n); err != nil {
			return err
		}
		if !in.widen(h.stream, n) {
			return malformed("a window wider than %d", Window)
		}
	case kindCancel:
		in.peer.forget(h.stream)
		in.end(h.stream, ErrCancelled)
		in.life.end(ErrCancelled)
	}
	return nil
}

var _ io.ReadWriter = (*Incoming)(nil)
