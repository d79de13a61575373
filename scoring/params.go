package scoring

import (
	"encoding/binary"
	"math"
	"strconv"
)

// readParams reads an object of scalars and lists of scalars.
//
// As encoded: u16 members; each u16 length of its name, its name, its value. A
// value is a letter, then: 'n' nothing; 't', 'f' nothing; 'q' an int64; 'd' a
// float64; 's' u32 length and UTF-8; 'l' u32 items and each item as a value.
func (q *request) readParams() bool {
	if q.peek() == 'n' {
		return q.word("null") // as if there were none
	}
	q.params = []byte{0, 0}
	names := map[string]bool{}
	ok := q.object(func(key []byte) bool {
		if names[string(key)] || len(key) > math.MaxUint16 {
			return false
		}
		names[string(key)] = true
		q.params = binary.LittleEndian.AppendUint16(q.params, uint16(len(key)))
		q.params = append(q.params, key...)
		if q.peek() != '[' {
			return q.param()
		}
		q.params = append(q.params, 'l', 0, 0, 0, 0)
		at := len(q.params) - 4
		n := uint32(0)
		ok := q.list(func() bool { n++; return q.param() })
		binary.LittleEndian.PutUint32(q.params[at:], n)
		return ok
	})
	binary.LittleEndian.PutUint16(q.params, uint16(len(names)))
	return ok && len(names) <= math.MaxUint16
}

// param reads one scalar.
func (q *request) param() bool {
	switch q.peek() {
	case 'n':
		q.params = append(q.params, 'n')
		return q.word("null")
	case 't':
		q.params = append(q.params, 't')
		return q.word("true")
	case 'f':
		q.params = append(q.params, 'f')
		return q.word("false")
	case '"':
		s, ok := q.string()
		if !ok || len(s) > math.MaxInt32 {
			return false
		}
		q.params = append(q.params, 's')
		q.params = binary.LittleEndian.AppendUint32(q.params, uint32(len(s)))
		q.params = append(q.params, s...)
		return true
	}
	start := q.i
	token, whole, ok := q.number()
	if !ok {
		return false
	}
	if whole {
		q.i = start
		v, ok := q.int64()
		q.params = binary.LittleEndian.AppendUint64(append(q.params, 'q'), uint64(v))
		return ok
	}
	v, err := strconv.ParseFloat(string(token), 64)
	q.params = binary.LittleEndian.AppendUint64(append(q.params, 'd'), math.Float64bits(v))
	return err == nil
}
