package scoring

import (
	"encoding/binary"
	"math"
)

// A Batch is a body's rows as typed columns, for an engine that needs no
// container of Python's around them.
type Batch struct {
	Rows    int
	Columns []Column // each of the signature's, in its order; optional ones may be absent
	Params  bool     // params were given, and the model has a schema for them
}

// A Column is one input's values. Numbers lie in Data, little-endian, of the
// width that Kind says ('d' float64, 'f' float32, 'q' int64, 'i' int32, '?' one
// byte); of texts, Kind 's', Data has an int32 length each, -1 for null, and
// Text the bytes.
type Column struct {
	Name  string
	Kind  byte
	Data  []byte
	Text  []byte
	Shape []int // of a tensor, outermost first; nil for a column
}

// Batch reads a JSON body as [Reader.Columns] does, and answers false for the
// same bodies. The columns are its own.
func (r *Reader) Batch(body []byte) (Batch, bool) {
	if !r.takes {
		return Batch{}, false
	}
	q := request{Reader: r, lexer: lexer{b: body}}
	if !q.body() {
		return Batch{}, false
	}
	b := Batch{Columns: make([]Column, 0, len(r.fields)), Params: q.params != nil && r.paramNames != nil}
	for at := range r.fields {
		for i := range q.columns {
			if c := &q.columns[i]; c.field == at {
				b.Columns = append(b.Columns, Column{Name: c.name, Kind: byte(c.class), Data: c.data, Text: c.text, Shape: c.shape})
				b.Rows = c.n
			}
		}
	}
	if r.tensor && len(b.Columns) > 0 {
		b.Rows = b.Columns[0].Shape[0]
	}
	return b, true
}

// AppendValues appends the JSON text of an answer that is a list of scalars or,
// with columns beyond zero, a list of lists of that many, as [AppendTable] does.
// data is as in a [Column]; where kind is 's' there are texts instead.
func AppendValues(dst []byte, kind byte, data []byte, texts []string, columns int) []byte {
	dst = append(dst, `{"predictions": [`...)
	b, n := block{letter: kind, data: data}, len(texts)
	if kind != 's' {
		n = len(data) / widths[kind]
	}
	for i := range n {
		dst = comma(dst, i)
		if columns > 0 && i%columns == 0 {
			dst = append(dst, '[')
		}
		if kind == 's' {
			dst = appendString(dst, []byte(texts[i]))
		} else {
			dst = b.append(dst, i)
		}
		if columns > 0 && i%columns == columns-1 {
			dst = append(dst, ']')
		}
	}
	return append(dst, ']', '}')
}

// An Array is one of several tensors that make an answer.
type Array struct {
	Name  string // UTF-8
	Kind  byte   // as in [AppendValues], and what Data and Texts are
	Shape []int64
	Data  []byte
	Texts []string
}

func (a *Array) len() int {
	if a.Kind == 's' {
		return len(a.Texts)
	}
	return len(a.Data) / widths[a.Kind]
}

func (a *Array) value(dst []byte, i int) []byte {
	if a.Kind == 's' {
		return appendString(dst, []byte(a.Texts[i]))
	}
	b := block{letter: a.Kind, data: a.Data}
	return b.append(dst, i)
}

// AppendRecords appends the JSON text of an answer that is a DataFrame with a
// column of each array, whatever its shape. It reports false when they are of
// unequal length.
func AppendRecords(dst []byte, columns []Array) ([]byte, bool) {
	dst = append(dst, `{"predictions": [`...)
	for i := range columns[0].len() {
		dst = append(comma(dst, i), '{')
		for k := range columns {
			c := &columns[k]
			if c.len() != columns[0].len() {
				return dst, false
			}
			dst = append(appendString(comma(dst, k), []byte(c.Name)), ": "...)
			dst = c.value(dst, i)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']', '}'), true
}

// AppendArrays appends the JSON text of an answer that is a dict of arrays, each
// with a shape of at least one dimension.
func AppendArrays(dst []byte, arrays []Array) []byte {
	dst = append(dst, `{"predictions": {`...)
	for k := range arrays {
		a := &arrays[k]
		dst = append(appendString(comma(dst, k), []byte(a.Name)), ": "...)
		at := 0
		dst = a.nest(dst, a.Shape, &at)
	}
	return append(dst, '}', '}')
}

// nest appends the values from at on as lists within lists.
func (a *Array) nest(dst []byte, shape []int64, at *int) []byte {
	if len(shape) == 0 {
		*at++
		return a.value(dst, *at-1)
	}
	dst = append(dst, '[')
	for i := range int(shape[0]) {
		dst = a.nest(comma(dst, i), shape[1:], at)
	}
	return append(dst, ']')
}

// Texts calls each with every text of a column, in order, until it answers
// false. It reports whether it came to the end; at a null it stops with false.
func (c *Column) Texts(each func(text []byte) bool) bool {
	rest := c.Text
	for i := 0; i < len(c.Data); i += 4 {
		n := binary.LittleEndian.Uint32(c.Data[i:])
		if n == math.MaxUint32 || !each(rest[:n]) {
			return false
		}
		rest = rest[n:]
	}
	return true
}

// JSON is the i-th value as JSON text.
func (c *Column) JSON(i int) string {
	if c.Kind != 's' {
		b := block{letter: c.Kind, data: c.Data}
		if text := string(b.append(nil, i)); text != "NaN" {
			return text
		}
		return "null"
	}
	rest := c.Text
	for k := 0; ; k++ {
		n := int32(binary.LittleEndian.Uint32(c.Data[4*k:]))
		switch {
		case k == i && n < 0:
			return "null"
		case k == i:
			return string(appendString(nil, rest[:n]))
		}
		rest = rest[max(0, n):]
	}
}
