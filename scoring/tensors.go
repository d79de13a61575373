package scoring

// tensorInput reads inputs or instances for a tensor signature: one nested
// list, or an object with one for each name.
func (q *request) tensorInput(key string) bool {
	if q.peek() == '[' {
		if len(q.fields) != 1 {
			return false
		}
		q.form = array
		if q.Reader.named {
			q.form = arrays // MLflow matches a lone list to the only name
		}
		return q.tensorValue(q.add(0))
	}
	if !q.Reader.named {
		return false
	}
	q.form = arrays
	return q.object(func(name []byte) bool {
		at, known := q.byName[string(name)]
		if !known || q.has(at) || !q.tensorValue(q.add(at)) {
			return false
		}
		// MLflow insists on equal first extents in instances only.
		last := &q.columns[len(q.columns)-1]
		return key == "inputs" || last.shape[0] == q.columns[0].shape[0]
	})
}

// tensorValue reads a nested list in which every list of one depth has the
// same length.
func (q *request) tensorValue(c *column) bool {
	if q.peek() != '[' {
		return false
	}
	ok := q.nest(c, 0)
	return ok && c.n > 0
}

// maxDimensions is well below numpy's own bound.
const maxDimensions = 16

func (q *request) nest(c *column, depth int) bool {
	if depth == maxDimensions {
		return false
	}
	known := depth < len(c.shape)
	if !known {
		c.shape = append(c.shape, 0)
	}
	n := 0
	ok := q.list(func() bool {
		n++
		if q.peek() == '[' {
			// The first leaf settles how deep the lists go.
			return (c.n == 0 || depth+1 < len(c.shape)) && q.nest(c, depth+1)
		}
		return depth+1 == len(c.shape) && q.value(c)
	})
	if !known {
		c.shape[depth] = n
	}
	return ok && n == c.shape[depth] && n > 0
}
