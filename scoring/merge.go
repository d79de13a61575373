package scoring

import (
	"bytes"
	"encoding/binary"
	"math"
)

// Rows is how many rows a request that [Reader.Columns] made holds, or 0 when
// they must not share a table with others' rows: it has params or an index, or
// texts that are missing, from which pandas infers the type of the whole column.
// Tensors are not for it.
func Rows(payload []byte) int {
	head := headOf(payload)
	rest := payload[4+len(head):]
	rows := int(binary.LittleEndian.Uint32(rest))
	if head[1] != 0 || binary.LittleEndian.Uint32(rest[4:]) != 0 {
		return 0
	}
	c := merging{payload: payload, at: 4 + len(head) + 8, rows: rows}
	for class := range classesOf(head) {
		if data, _ := c.next(class); class == text && bytes.Contains(data, missing) && hasMissing(data) {
			return 0
		}
	}
	return rows
}

var missing = []byte{0xff, 0xff, 0xff, 0xff}

func hasMissing(lengths []byte) bool {
	for i := 0; i < len(lengths); i += 4 {
		if binary.LittleEndian.Uint32(lengths[i:]) == math.MaxUint32 {
			return true
		}
	}
	return false
}

// Alike reports whether two requests have the same form and columns, so that
// their rows fit into one table.
func Alike(a, b []byte) bool { return bytes.Equal(headOf(a), headOf(b)) }

// Merge appends one request with the rows of all, in their order. They are
// [Alike], and [Rows] is not zero for any.
func Merge(dst []byte, payloads [][]byte) []byte {
	base := len(dst)
	head := headOf(payloads[0])
	parts := make([]merging, len(payloads))
	rows := 0
	for i, p := range payloads {
		n := int(binary.LittleEndian.Uint32(p[4+len(head):]))
		parts[i] = merging{payload: p, at: 4 + len(head) + 8, rows: n}
		rows += n
	}
	dst = append(dst, payloads[0][:4+len(head)]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(rows))
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	var texts []byte
	for class := range classesOf(head) {
		dst = pad(dst, base)
		texts = texts[:0]
		for i := range parts {
			data, text := parts[i].next(class)
			dst, texts = append(dst, data...), append(texts, text...)
		}
		dst = append(dst, texts...)
	}
	return dst
}

func headOf(payload []byte) []byte {
	return payload[4 : 4+binary.LittleEndian.Uint32(payload)]
}

// classesOf yields the class of each column of a head.
func classesOf(head []byte) func(yield func(class) bool) {
	return func(yield func(class) bool) {
		for at := 2; at < len(head); at += 3 + int(binary.LittleEndian.Uint16(head[at+1:])) {
			if !yield(class(head[at])) {
				return
			}
		}
	}
}

// merging walks over the columns of one request.
type merging struct {
	payload  []byte
	at, rows int
}

// next returns the values of the next column, and the texts where those are lengths.
func (c *merging) next(k class) (data, texts []byte) {
	c.at = (c.at + 7) &^ 7
	width := widths[k]
	if k == text {
		width = 4
	}
	data = c.payload[c.at : c.at+width*c.rows]
	c.at += len(data)
	if k != text {
		return data, nil
	}
	size := 0
	for i := 0; i < len(data); i += 4 {
		if n := binary.LittleEndian.Uint32(data[i:]); n != math.MaxUint32 {
			size += int(n)
		}
	}
	texts = c.payload[c.at : c.at+size]
	c.at += size
	return data, texts
}
