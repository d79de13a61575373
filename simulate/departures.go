package simulate

// A departure is the end of a request on a replica.
type departure struct {
	at      int64
	took    int64 // since it was put there
	replica int32
	beside  int32 // requests in the replica when it was, itself included
}

// departures hands them out soonest first. Where all requests take equally long
// they end in the order they began, so most are kept in a ring; only those that
// end before one that began earlier go through a heap.
type departures struct {
	ring  []departure // a power of two long
	first int
	count int
	heap  []departure
	soon  int64 // when the next one is; meaningless when there is none
}

func (d *departures) len() int { return d.count + len(d.heap) }

func (d *departures) next() int64 {
	if d.count == 0 && len(d.heap) == 0 {
		return never
	}
	return d.soon
}

func (d *departures) push(e departure) {
	if d.len() == 0 || e.at < d.soon {
		d.soon = e.at
	}
	if d.count > 0 && e.at < d.ring[(d.first+d.count-1)&(len(d.ring)-1)].at {
		d.sink(e)
		return
	}
	if d.count == len(d.ring) {
		ring := make([]departure, max(64, 2*len(d.ring)))
		for i := range d.count {
			ring[i] = d.ring[(d.first+i)&(len(d.ring)-1)]
		}
		d.ring, d.first = ring, 0
	}
	d.ring[(d.first+d.count)&(len(d.ring)-1)] = e
	d.count++
}

func (d *departures) pop() departure {
	var e departure
	if d.count > 0 && (len(d.heap) == 0 || d.ring[d.first].at <= d.heap[0].at) {
		e = d.ring[d.first]
		d.first = (d.first + 1) & (len(d.ring) - 1)
		d.count--
	} else {
		e = d.rise()
	}
	switch {
	case d.count > 0 && (len(d.heap) == 0 || d.ring[d.first].at <= d.heap[0].at):
		d.soon = d.ring[d.first].at
	case len(d.heap) > 0:
		d.soon = d.heap[0].at
	}
	return e
}

func (d *departures) sink(e departure) {
	h := append(d.heap, e)
	i := len(h) - 1
	for i > 0 && h[(i-1)/2].at > e.at {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = e
	d.heap = h
}

func (d *departures) rise() departure {
	h := d.heap
	top, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	i := 0
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].at < h[child].at {
			child++
		}
		if h[child].at >= last.at {
			break
		}
		h[i] = h[child]
		i = child
	}
	if len(h) > 0 {
		h[i] = last
	}
	d.heap = h
	return top
}
