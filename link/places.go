package link

import "slices"

// A holder is one connection's share of the places.
type holder struct {
	granted  int  // places granted and not yet spent
	recalled int  // of those, how many were asked back and not yet answered for
	inside   int  // requests in flight
	want     int  // places it says it could use in all
	aside    bool // wants no places but those it wants by number
	parted   bool
	peer     *peer
}

func (h *holder) share() int { return h.granted + h.inside }

// unmet is how many more places it could use.
func (h *holder) unmet() int { return h.want - (h.granted - h.recalled) - h.inside }

// idle is how many places it holds beyond its want.
func (h *holder) idle() int {
	return max(0, h.granted-h.recalled-max(0, h.want-h.inside))
}

// places divides the load line among connections. The sum of all shares never
// exceeds the line, except while a lowered line is being made good.
type places struct {
	line    int
	holders []*holder
	orphans int    // requests in flight whose connection is gone
	moves   []move // of the last divide; reused
}

// A move is what to tell one holder.
type move struct {
	to     *holder
	grant  int
	recall int
}

func (p *places) used() int {
	sum := p.orphans
	for _, h := range p.holders {
		sum += h.share()
	}
	return sum
}

// divide gives out what is free, and asks idle places back where somebody
// wants more than is free or the line was lowered. Who wants and has least
// comes first; what nobody wants is spread, so that a request on a quiet
// replica finds a place without asking. The result is valid until the next call.
func (p *places) divide() []move {
	p.moves = p.moves[:0]
	free := p.line - p.used()
	for ; free > 0 && len(p.holders) > 0; free-- {
		h := p.next()
		h.granted++
		p.move(h).grant++
	}
	p.recall(max(0, -free), p.hungry())
	return p.moves
}

// next is who gets the next free place.
func (p *places) next() *holder {
	best := p.holders[0]
	for _, h := range p.holders[1:] {
		rank, bestRank := h.rank(), best.rank()
		if rank > bestRank || rank == bestRank && h.share() < best.share() {
			best = h
		}
	}
	return best
}

// rank is whether h comes before others who have as little.
func (h *holder) rank() int {
	switch {
	case h.unmet() > 0:
		return 2
	case h.aside:
		return 0
	}
	return 1
}

// spare is how many idle places are held by those who stand aside, if there is
// somebody who does not.
func (p *places) spare() int {
	sum, others := 0, false
	for _, h := range p.holders {
		if others = others || !h.aside; h.aside {
			sum += h.idle()
		}
	}
	if !others {
		return 0
	}
	return sum
}

// hungry is how many more places are wanted than are there.
func (p *places) hungry() int {
	sum := 0
	for _, h := range p.holders {
		sum += max(0, h.unmet())
	}
	return sum
}

// recall asks back over places, whoever holds them, idle ones for those who are
// hungry, and all that lie with those who stand aside. What was asked back
// before counts.
func (p *places) recall(over, hungry int) {
	if p.spare() > 0 {
		for _, h := range p.holders {
			if n := h.idle(); h.aside && n > 0 {
				h.recalled += n
				p.move(h).recall += n
			}
		}
		hungry = p.hungry()
	}
	for _, h := range p.holders {
		over -= h.recalled
	}
	// Answers under way serve a lowered line first, then the hungry.
	hungry += min(0, over)
	over = max(0, over)
	for _, h := range p.holders {
		n := min(h.idle(), over+max(0, hungry))
		n = max(n, min(h.granted-h.recalled, over))
		if n <= 0 {
			continue
		}
		h.recalled += n
		p.move(h).recall += n
		hungry -= max(0, n-over)
		over = max(0, over-n)
	}
}

func (p *places) move(h *holder) *move {
	for i := range p.moves {
		if p.moves[i].to == h {
			return &p.moves[i]
		}
	}
	p.moves = append(p.moves, move{to: h})
	return &p.moves[len(p.moves)-1]
}

// open spends one of h's places; false when it holds none.
func (p *places) open(h *holder) bool {
	if h.granted == 0 {
		return false
	}
	h.granted--
	h.inside++
	return true
}

// leave frees the place of a request that has ended.
func (p *places) leave(h *holder) {
	if h.inside--; h.parted {
		p.orphans--
	}
}

// give takes back given of the asked places. False: the numbers cannot be.
func (p *places) give(h *holder, asked, given int) bool {
	if asked > h.recalled || given > asked || given > h.granted {
		return false
	}
	h.recalled -= asked
	h.granted -= given
	return true
}

// part forgets h and its places. Its requests that are still inside keep
// theirs until they leave.
func (p *places) part(h *holder) {
	h.granted, h.recalled, h.want, h.parted = 0, 0, 0, true
	p.orphans += h.inside
	p.holders = slices.DeleteFunc(p.holders, func(o *holder) bool { return o == h })
}

// void takes all granted places away, without asking.
func (p *places) void() {
	p.line = 0
	for _, h := range p.holders {
		h.granted, h.recalled, h.want = 0, 0, 0
	}
}

// inside is how many requests are in flight.
func (p *places) inside() int {
	sum := p.orphans
	for _, h := range p.holders {
		sum += h.inside
	}
	return sum
}
