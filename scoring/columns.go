package scoring

import (
	"encoding/binary"
	"math"
	"strconv"
	"unsafe"
)

// A form is the container that MLflow's parser would make of a body. The
// worker makes the same one; columns.py has the same numbers.
type form byte

const (
	frame   form = 1 // dataframe_split, dataframe_records: a DataFrame
	arrays  form = 2 // a dict of arrays, one per column
	rows    form = 3 // inputs as a list of dicts: the same, of numpy scalars
	scalars form = 4 // inputs or instances as one dict of scalars: a dict of numpy scalars
	array   form = 5 // a tensor without a name: one array
)

// A column is one input's values so far, in the layout the worker reads.
type column struct {
	field int
	name  string
	class class
	n     int    // values
	data  []byte // numbers; for text the length of each, -1 for null, as int32
	text  []byte
	shape []int // tensors: the extents, outermost first
}

// A request is a body being read.
type request struct {
	*Reader
	lexer
	form    form
	columns []column
	index   *column
	params  []byte // as encoded; nil is none
}

// Columns reads a JSON body and appends it, as the worker takes it, to dst.
// It reports false when the body has to go as it is.
//
// The layout, little-endian: u32 length of the head; the head (u8 form, u8 1
// when an index is there, then for each column u8 class, u16 length of its
// name, its name); u32 rows; u32 length of the params, the params; then from
// the next multiple of 8 on, for the index and each column its values, each
// padded to a multiple of 8. A tensor's values are preceded by u32 dimensions
// and u32 each. Offsets count from the end of dst.
func (r *Reader) Columns(dst, body []byte) ([]byte, bool) {
	if !r.takes {
		return dst, false
	}
	q := request{Reader: r, lexer: lexer{b: body}}
	if !q.body() {
		return dst, false
	}
	return q.append(dst), true
}

// body reads the whole body: one of the four forms, perhaps params, and keys
// that MLflow drops.
func (q *request) body() bool {
	seen := ""
	params := false
	ok := q.object(func(key []byte) bool {
		switch string(key) {
		case "dataframe_split", "dataframe_records", "instances", "inputs":
			if seen != "" {
				return false
			}
			seen = string(key)
			return q.input(seen)
		case "params":
			if params {
				return false
			}
			params = true
			return q.readParams()
		case "messages", "prompt", "input", "stream":
			return false // an LLM body, or a wish for a stream
		}
		return q.skip(0)
	})
	return ok && q.peek() == 0 && q.i == len(q.b) && seen != "" && q.whole()
}

func (q *request) input(key string) bool {
	if q.tensor {
		return (key == "instances" || key == "inputs") && q.tensorInput(key)
	}
	switch key {
	case "dataframe_split":
		q.form = frame
		return q.split()
	case "dataframe_records":
		q.form = frame
		return q.peek() == '[' && q.records()
	}
	switch q.peek() {
	case '{':
		return q.byColumn()
	case '[':
		return q.byRow(key)
	}
	return false
}

// byRow reads instances or inputs that are a list: of dicts, or of the values
// of the only column.
func (q *request) byRow(key string) bool {
	start := q.i
	q.i++
	first := q.peek()
	q.i = start
	if first == '{' {
		q.form = rows
		if key == "instances" {
			q.form = arrays
		}
		return q.records()
	}
	if len(q.fields) != 1 {
		return false
	}
	q.form = arrays
	c := q.add(0)
	return q.list(func() bool { return q.value(c) })
}

// split reads {"columns": […], "data": [[…], …], "index": […]} in any order.
func (q *request) split() bool {
	var have struct{ columns, data, index bool }
	late := -1 // where data begins if it came before the columns
	ok := q.object(func(key []byte) bool {
		switch string(key) {
		case "columns":
			if have.columns {
				return false
			}
			have.columns = true
			return q.list(q.columnName)
		case "data":
			if have.data {
				return false
			}
			have.data = true
			if !have.columns {
				q.space()
				late = q.i
				return q.skip(0)
			}
			return q.matrix()
		case "index":
			if have.index {
				return false
			}
			have.index = true
			q.index = &column{class: long}
			return q.list(func() bool { return q.value(q.index) })
		}
		return false
	})
	if !ok || !have.columns || !have.data {
		return false
	}
	if late >= 0 {
		end := q.i
		q.i = late
		ok = q.matrix()
		q.i = end
	}
	return ok
}

func (q *request) columnName() bool {
	q.space()
	name, ok := q.string()
	if !ok {
		return false
	}
	at, known := q.byName[string(name)]
	if !known || q.has(at) {
		return false
	}
	q.add(at)
	return true
}

func (q *request) matrix() bool {
	return q.list(func() bool {
		k := 0
		ok := q.list(func() bool {
			if k == len(q.columns) {
				return false
			}
			k++
			return q.value(&q.columns[k-1])
		})
		return ok && k == len(q.columns)
	})
}

// records reads a list of objects that all have the same keys.
func (q *request) records() bool {
	n := 0
	return q.list(func() bool {
		k := 0
		ok := q.object(func(key []byte) bool {
			var c *column
			switch {
			case k < len(q.columns) && string(key) == q.columns[k].name:
				c = &q.columns[k] // the usual case: each row has the first one's order
			default:
				if c = q.keyed(key, n == 0); c == nil {
					return false
				}
			}
			k++
			return c.n == n && q.value(c)
		})
		n++
		return ok && k == len(q.columns) && k > 0
	})
}

// keyed finds the column that a row's key means, or nil.
func (q *request) keyed(key []byte, first bool) *column {
	at, known := q.byName[string(key)]
	if !known {
		return nil
	}
	for i := range q.columns {
		if q.columns[i].field == at {
			return &q.columns[i]
		}
	}
	if !first {
		return nil
	}
	return q.add(at)
}

// byColumn reads {"a": […], "b": […]}, or {"a": 1, "b": 2}, which is one row.
func (q *request) byColumn() bool {
	return q.object(func(key []byte) bool {
		at, known := q.byName[string(key)]
		if !known || q.has(at) {
			return false
		}
		f := scalars
		if q.peek() == '[' {
			f = arrays
		}
		if q.form != 0 && q.form != f {
			return false
		}
		q.form = f
		c := q.add(at)
		if f == scalars {
			return q.value(c)
		}
		return q.list(func() bool { return q.value(c) })
	})
}

func (q *request) has(at int) bool {
	for i := range q.columns {
		if q.columns[i].field == at {
			return true
		}
	}
	return false
}

func (q *request) add(at int) *column {
	if q.columns == nil {
		q.columns = make([]column, 0, len(q.fields))
	}
	f := &q.fields[at]
	q.columns = append(q.columns, column{field: at, name: f.name, class: f.class})
	return &q.columns[len(q.columns)-1]
}

// whole reports whether what was read is a table that the signature accepts.
func (q *request) whole() bool {
	if q.form == array || q.tensor {
		return len(q.columns) == len(q.fields)
	}
	for at, f := range q.fields {
		if f.required && !q.has(at) {
			return false
		}
	}
	if len(q.columns) == 0 || q.columns[0].n == 0 {
		return false
	}
	n := q.columns[0].n
	for _, c := range q.columns {
		if c.n != n {
			return false
		}
	}
	return q.index == nil || q.index.n == n
}

// Bounds within which whole numbers stay exact as float64, and float32 stays finite.
const (
	exactInt  = 1 << 53
	maxSingle = math.MaxFloat32
)

// value reads one value into c, if its JSON type is exactly what c holds.
func (q *request) value(c *column) bool {
	c.n++
	switch c.class {
	case double, single:
		return q.float(c)
	case long, integer:
		v, ok := q.int64()
		if !ok {
			return false
		}
		if c.class == long {
			c.data = binary.LittleEndian.AppendUint64(c.data, uint64(v))
			return true
		}
		c.data = binary.LittleEndian.AppendUint32(c.data, uint32(int32(v)))
		return v == int64(int32(v))
	case boolean:
		switch {
		case q.word("true"):
			c.data = append(c.data, 1)
		case q.word("false"):
			c.data = append(c.data, 0)
		default:
			return false
		}
		return true
	case text:
		if q.peek() == 'n' {
			c.data = binary.LittleEndian.AppendUint32(c.data, math.MaxUint32)
			return q.word("null")
		}
		s, ok := q.string()
		if !ok || len(s) > math.MaxInt32 {
			return false
		}
		c.data = binary.LittleEndian.AppendUint32(c.data, uint32(len(s)))
		c.text = append(c.text, s...)
		return true
	}
	return false
}

func (q *request) float(c *column) bool {
	v := math.NaN()
	if q.peek() == 'n' {
		if q.tensor || !q.word("null") {
			return false
		}
	} else {
		token, whole, ok := q.number()
		if !ok {
			return false
		}
		var err error
		v, err = strconv.ParseFloat(unsafe.String(unsafe.SliceData(token), len(token)), 64)
		if err != nil {
			return false // out of range
		}
		if whole {
			// Python rounds an int to float64 as ParseFloat does, as long as pandas
			// takes it for an int64. On to float32 it may be rounded once or twice.
			if len(token) > 18 || c.class == single && math.Abs(v) >= exactInt {
				return false
			}
			v += 0 // the int -0 is 0
		}
	}
	if c.class == double {
		c.data = binary.LittleEndian.AppendUint64(c.data, math.Float64bits(v))
		return true
	}
	c.data = binary.LittleEndian.AppendUint32(c.data, math.Float32bits(float32(v)))
	return !(math.Abs(v) > maxSingle)
}

// append writes the request in the layout that Columns describes.
func (q *request) append(dst []byte) []byte {
	base := len(dst)
	dst = append(dst, 0, 0, 0, 0, byte(q.form), 0)
	n := 0
	size := 0
	if q.index != nil {
		dst[base+5] = 1
		size += len(q.index.data)
	}
	for _, c := range q.columns {
		dst = append(dst, byte(c.class))
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(c.name)))
		dst = append(dst, c.name...)
		n = c.n
		size += len(c.data) + len(c.text) + 16
	}
	binary.LittleEndian.PutUint32(dst[base:], uint32(len(dst)-base-4))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(q.params)))
	dst = append(dst, q.params...)
	if need := len(dst) + size + 32; cap(dst) < need {
		dst = append(make([]byte, 0, need), dst...)
	}
	if q.index != nil {
		dst = append(pad(dst, base), q.index.data...)
	}
	for _, c := range q.columns {
		if q.tensor {
			dst = binary.LittleEndian.AppendUint32(pad(dst, base), uint32(len(c.shape)))
			for _, extent := range c.shape {
				dst = binary.LittleEndian.AppendUint32(dst, uint32(extent))
			}
		}
		dst = append(pad(dst, base), c.data...)
		dst = append(dst, c.text...)
	}
	return dst
}

func pad(dst []byte, base int) []byte {
	for (len(dst)-base)%8 != 0 {
		dst = append(dst, 0)
	}
	return dst
}
