package queue

// A list links places to each other, so that keeping one costs nothing.
type list struct {
	first, last *Place
	len         int
}

func (l *list) append(p *Place) {
	p.in, p.prev, p.next = l, l.last, nil
	if l.last != nil {
		l.last.next = p
	} else {
		l.first = p
	}
	l.last = p
	l.len++
}

func (l *list) prepend(p *Place) {
	p.in, p.prev, p.next = l, nil, l.first
	if l.first != nil {
		l.first.prev = p
	} else {
		l.last = p
	}
	l.first = p
	l.len++
}

func (l *list) remove(p *Place) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		l.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		l.last = p.prev
	}
	p.in, p.prev, p.next = nil, nil, nil
	l.len--
}
