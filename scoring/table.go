package scoring

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"unicode/utf8"
)

// Shapes of an answer that crosses as buffers; columns.py has the same numbers.
const (
	vector  = 1 // a list of scalars
	matrix  = 2 // a list of lists of scalars
	records = 3 // a list of objects
)

// Lengths that stand for a missing text.
const (
	missingNaN  = -1 // Python's nan
	missingNull = -2 // Python's None
)

var errTable = errors.New("the worker's answer does not have the layout of a table")

// AppendTable appends the JSON text of an answer that crossed as buffers, as
// MLflow's server would write it. It fails only on a broken table.
//
// The layout, little-endian: u8 shape, u32 rows, u32 columns; then for a vector
// or a matrix one block, for records one block per column, each preceded by u32
// length of its key and the key. A block is a letter (numpy's, or 's' for text)
// and the values, row by row; text is an int32 length each, then the bytes.
func AppendTable(dst, table []byte) ([]byte, error) {
	t, err := ReadTable(table)
	if err != nil {
		return dst, err
	}
	return t.Append(dst, 0, t.Rows), nil
}

// A Table is an answer that crossed as buffers, of which rows can be written
// apart from each other.
type Table struct {
	Rows int

	shape   byte
	columns int
	blocks  []block  // one per column of records, else one
	keys    [][]byte // of records, as JSON text with the colon
}

// ReadTable takes an answer apart, in the layout that [AppendTable] describes.
// The table lies in b.
func ReadTable(b []byte) (*Table, error) {
	r := tableReader{b: b}
	t := &Table{shape: r.byte(), Rows: int(r.u32()), columns: int(r.u32())}
	if r.bad || uint64(t.Rows)*uint64(max(t.columns, 1)) > uint64(len(b)) && t.columns > 0 {
		return nil, errTable
	}
	switch t.shape {
	case vector:
		r.bad = t.columns != 1
		t.blocks = []block{r.block(t.Rows)}
	case matrix:
		r.bad = t.columns == 0 && t.Rows > 1<<20
		t.blocks = []block{r.block(t.Rows * t.columns)}
	case records:
		t.readRecords(&r)
	default:
		return nil, errTable
	}
	if r.bad || len(r.b) > 0 {
		return nil, errTable
	}
	return t, nil
}

func (t *Table) readRecords(r *tableReader) {
	if t.columns == 0 || t.columns > len(r.b) {
		r.bad = true
		return
	}
	t.keys, t.blocks = make([][]byte, t.columns), make([]block, t.columns)
	for j := range t.columns {
		key := r.take(int(r.u32()))
		if r.bad || !utf8.Valid(key) {
			r.bad = true
			return
		}
		t.keys[j] = append(appendString(nil, key), ": "...)
		t.blocks[j] = r.block(t.Rows)
	}
}

// Append appends the JSON text of the answer's rows from, …, to-1, as if the
// answer had no others.
func (t *Table) Append(dst []byte, from, to int) []byte {
	dst = append(dst, `{"predictions": [`...)
	for i := from; i < to; i++ {
		dst = comma(dst, i-from)
		switch t.shape {
		case vector:
			dst = t.blocks[0].append(dst, i)
		case matrix:
			dst = append(dst, '[')
			for j := range t.columns {
				dst = t.blocks[0].append(comma(dst, j), i*t.columns+j)
			}
			dst = append(dst, ']')
		case records:
			dst = append(dst, '{')
			for j := range t.blocks {
				dst = append(comma(dst, j), t.keys[j]...)
				dst = t.blocks[j].append(dst, i)
			}
			dst = append(dst, '}')
		}
	}
	return append(dst, ']', '}')
}

func comma(dst []byte, i int) []byte {
	if i == 0 {
		return dst
	}
	return append(dst, ", "...)
}

// A block is the values of one column of an answer.
type block struct {
	letter byte
	data   []byte
	starts []int // of each text within data; -1 and -2 for a missing one
	ends   []int
}

// append appends value i. The block was checked when it was read.
func (b *block) append(dst []byte, i int) []byte {
	le := binary.LittleEndian
	switch b.letter {
	case 'd':
		return appendFloat(dst, math.Float64frombits(le.Uint64(b.data[8*i:])))
	case 'f':
		return appendFloat(dst, float64(math.Float32frombits(le.Uint32(b.data[4*i:]))))
	case 'q':
		return strconv.AppendInt(dst, int64(le.Uint64(b.data[8*i:])), 10)
	case 'Q':
		return strconv.AppendUint(dst, le.Uint64(b.data[8*i:]), 10)
	case 'i':
		return strconv.AppendInt(dst, int64(int32(le.Uint32(b.data[4*i:]))), 10)
	case 'I':
		return strconv.AppendUint(dst, uint64(le.Uint32(b.data[4*i:])), 10)
	case 'h':
		return strconv.AppendInt(dst, int64(int16(le.Uint16(b.data[2*i:]))), 10)
	case 'H':
		return strconv.AppendUint(dst, uint64(le.Uint16(b.data[2*i:])), 10)
	case 'b':
		return strconv.AppendInt(dst, int64(int8(b.data[i])), 10)
	case 'B':
		return strconv.AppendUint(dst, uint64(b.data[i]), 10)
	case '?':
		return strconv.AppendBool(dst, b.data[i] != 0)
	}
	switch b.starts[i] {
	case missingNaN:
		return append(dst, "NaN"...)
	case missingNull:
		return append(dst, "null"...)
	}
	return appendString(dst, b.data[b.starts[i]:b.ends[i]])
}

var widths = [256]int{'d': 8, 'q': 8, 'Q': 8, 'f': 4, 'i': 4, 'I': 4, 'h': 2, 'H': 2, 'b': 1, 'B': 1, '?': 1}

// A tableReader takes a table apart. Once bad, it gives zeroes.
type tableReader struct {
	b   []byte
	bad bool
}

func (t *tableReader) take(n int) []byte {
	if n < 0 || n > len(t.b) {
		t.bad, t.b = true, nil
		return nil
	}
	p := t.b[:n]
	t.b = t.b[n:]
	return p
}

func (t *tableReader) byte() byte {
	if p := t.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (t *tableReader) u32() uint32 {
	if p := t.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (t *tableReader) block(n int) block {
	b := block{letter: t.byte()}
	if w := widths[b.letter]; w != 0 {
		b.data = t.take(n * w)
		return b
	}
	if b.letter != 's' || n > len(t.b)/4 {
		t.bad = true
		return b
	}
	lengths := t.take(4 * n)
	b.starts, b.ends = make([]int, n), make([]int, n)
	at := 0
	for i := range n {
		l := int(int32(binary.LittleEndian.Uint32(lengths[4*i:])))
		if l < 0 {
			b.starts[i] = l
			t.bad = t.bad || l < missingNull
			continue
		}
		b.starts[i], b.ends[i] = at, at+l
		at += l
	}
	b.data = t.take(at)
	t.bad = t.bad || !utf8.Valid(b.data)
	return b
}

const hexDigits = "0123456789abcdef"

// appendString appends s, valid UTF-8, as Python's json module does: ASCII only.
func appendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c >= ' ' && c != 0x7f:
				dst = append(dst, c)
			case c == '\n':
				dst = append(dst, '\\', 'n')
			case c == '\r':
				dst = append(dst, '\\', 'r')
			case c == '\t':
				dst = append(dst, '\\', 't')
			case c == '\b':
				dst = append(dst, '\\', 'b')
			case c == '\f':
				dst = append(dst, '\\', 'f')
			default:
				dst = appendEscape(dst, rune(c))
			}
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		i += n
		if r > 0xffff {
			r -= 0x10000
			dst = appendEscape(dst, 0xd800+r>>10)
			r = 0xdc00 + r&0x3ff
		}
		dst = appendEscape(dst, r)
	}
	return append(dst, '"')
}

func appendEscape(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
