package pyworker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"loadline.dev/loadline/agent"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/scoring"
)

// A gathering lets requests that wait for the worker go to it together, in one
// call of the model. There is no window: a request that finds nobody on the way
// goes at once, and those that come meanwhile go as one when it is answered.
//
// The worker says how many rows may share a call, which it has tried (see
// together.py). A batch that the model does not answer as a whole is asked again
// request by request, so that only the one who is at fault gets the error.
type gathering struct {
	sizes []int // in rows, ascending; empty: all go alone
	why   string

	mu      sync.Mutex
	limit   int // rows at present: halved when a batch was asked again, doubled when not
	flying  bool
	waiting []*waiter

	calls [len(link.CallSizes)]atomic.Uint64 // of the model, by how many requests were in it
}

// A waiter is one request that may share a call.
type waiter struct {
	buf  []byte // the header's room and the columns
	rows int
	turn chan turn // receives once, unless the waiter has withdrawn
}

// A turn is how waiting ended.
type turn struct {
	lead     []*waiter      // these go together, the receiver first and in charge
	table    *scoring.Table // the answer of the whole call
	from, to int            // which rows of it are the receiver's
	alone    bool           // ask alone
	err      error
}

// A flight is what is on its way to the worker. Its end lets the next begin.
type flight struct {
	e    *Engine
	once sync.Once
}

func (f *flight) end() {
	if f != nil {
		f.once.Do(f.e.landed)
	}
}

// askTogether is ask for a request whose rows may share a call.
func (e *Engine) askTogether(ctx context.Context, buf []byte, rows int, w agent.Answerer) error {
	g := &e.gather
	me := &waiter{buf: buf, rows: rows}
	g.mu.Lock()
	if !g.flying {
		g.flying = true
		g.mu.Unlock()
		return e.lead(ctx, []*waiter{me}, w)
	}
	me.turn = make(chan turn, 1)
	g.waiting = append(g.waiting, me)
	g.mu.Unlock()
	select {
	case t := <-me.turn:
		return e.take(ctx, me, t, w)
	case <-ctx.Done():
	}
	if g.withdraw(me) {
		return ctx.Err()
	}
	// It is on its way, or others count on it.
	t := <-me.turn
	if t.lead == nil {
		return ctx.Err()
	}
	return e.take(ctx, me, t, w)
}

// take does what the end of waiting asks for.
func (e *Engine) take(ctx context.Context, me *waiter, t turn, w agent.Answerer) error {
	switch {
	case t.lead != nil:
		return e.lead(ctx, t.lead, w)
	case t.err != nil:
		return t.err
	case t.alone:
		return e.ask(ctx, kindColumns, me.buf, w, nil)
	}
	body := t.table.Append(make([]byte, 0, 64+32*me.rows), t.from, t.to)
	return answer(w, 200, jsonType, body)
}

// lead sends a call for all members, of whom the caller is the first, and gives
// each its part of the answer.
func (e *Engine) lead(ctx context.Context, members []*waiter, w agent.Answerer) error {
	e.gather.count(len(members))
	f := &flight{e: e}
	defer f.end()
	if len(members) == 1 {
		return e.ask(ctx, kindColumns, members[0].buf, w, f)
	}
	table, err := e.call(members, f)
	e.gather.judge(members, table != nil || err != nil)
	at := 0
	var mine turn
	for i, m := range members {
		t := turn{table: table, from: at, to: at + m.rows, alone: table == nil, err: err}
		at += m.rows
		if i == 0 {
			mine = t
			continue
		}
		m.turn <- t
	}
	if mine.err == nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return e.take(ctx, members[0], mine, w)
}

// call asks the worker for the rows of all members. Without a table and an
// error they have to be asked one by one.
func (e *Engine) call(members []*waiter, f *flight) (*scoring.Table, error) {
	payloads := make([][]byte, len(members))
	rows, size := 0, headerSize+64
	for i, m := range members {
		payloads[i] = m.buf[headerSize:]
		rows += m.rows
		size += len(payloads[i])
	}
	buf := scoring.Merge(make([]byte, headerSize, size), payloads)
	c, id, err := e.open(f)
	if err != nil {
		return nil, err
	}
	defer e.close(id)
	if err := e.send(buf, kindTogether, id); err != nil {
		return nil, err
	}
	// Nobody's leaving stops it: the others still wait.
	answer, err := c.pop(nil)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the worker died inside a request: %w", err)
	case answer.kind == kindDropped:
		return nil, agent.ErrEngineGone // stopped before its turn
	case answer.kind != kindTable:
		return nil, nil
	}
	table, err := scoring.ReadTable(answer.payload)
	if err != nil || table.Rows != rows {
		return nil, nil
	}
	return table, nil
}

// landed lets the next flight begin. It never blocks.
func (e *Engine) landed() {
	g := &e.gather
	g.mu.Lock()
	members := g.nextLocked()
	g.flying = len(members) > 0
	g.mu.Unlock()
	if len(members) > 0 {
		members[0].turn <- turn{lead: members}
	}
}

// nextLocked takes those who go next out of those who wait: the one who has
// waited longest, and as many alike as may go with it. It requires g.mu.
func (g *gathering) nextLocked() []*waiter {
	if len(g.waiting) == 0 {
		return nil
	}
	first := g.waiting[0]
	alike := []*waiter{first}
	rows, take := first.rows, 1
	for _, m := range g.waiting[1:] {
		if rows+m.rows > g.limit || len(alike) == link.CallSizes[len(link.CallSizes)-1] {
			break
		}
		if !scoring.Alike(first.buf[headerSize:], m.buf[headerSize:]) {
			continue
		}
		alike = append(alike, m)
		rows += m.rows
		if _, proven := slices.BinarySearch(g.sizes, rows); proven {
			take = len(alike)
		}
	}
	members := alike[:take]
	i := 0
	g.waiting = slices.DeleteFunc(g.waiting, func(m *waiter) bool {
		if i < len(members) && m == members[i] {
			i++
			return true
		}
		return false
	})
	return members
}

// withdraw takes m out of those who wait, and reports whether it was there.
func (g *gathering) withdraw(m *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, m)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

// judge learns from how a call went. Asking again costs a call, so whoever sends
// what the model refuses makes batches small for a while.
func (g *gathering) judge(members []*waiter, whole bool) {
	rows := 0
	for _, m := range members {
		rows += m.rows
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !whole {
		g.limit = max(1, rows/2)
		return
	}
	g.limit = min(2*g.limit, g.sizes[len(g.sizes)-1])
}

// count notes a call with n requests. Calls of one request make the limit grow
// back too: at 1 there are no others.
func (g *gathering) count(n int) {
	i := 0
	for link.CallSizes[i] < n {
		i++
	}
	g.calls[i].Add(1)
	if n > 1 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.sizes) > 0 {
		g.limit = min(g.limit+1, g.sizes[len(g.sizes)-1])
	}
}

// together is how many rows of a request may share a call, or 0.
func (e *Engine) together(columns []byte) int {
	g := &e.gather
	if len(g.sizes) == 0 {
		return 0
	}
	rows := scoring.Rows(columns[headerSize:])
	if rows > g.sizes[len(g.sizes)-1]/2 {
		return 0 // it is a batch already
	}
	return rows
}

// Gathers implements [agent.Gatherer].
func (e *Engine) Gathers() int {
	if n := len(e.gather.sizes); n > 0 {
		return e.gather.sizes[n-1]
	}
	return 0
}

// Calls implements [agent.Gatherer].
func (e *Engine) Calls() (calls [len(link.CallSizes)]uint64) {
	for i := range calls {
		calls[i] = e.gather.calls[i].Load()
	}
	return calls
}

var errSizes = errors.New("the worker's greeting has no ascending sizes")

// gatherUpTo sets what the worker has tried.
func (g *gathering) gatherUpTo(sizes []int, why string) error {
	for i, n := range sizes {
		if n < 2 || i > 0 && n <= sizes[i-1] {
			return errSizes
		}
	}
	g.sizes, g.why = sizes, why
	if len(sizes) > 0 {
		g.limit = sizes[len(sizes)-1]
	}
	return nil
}
