package native

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"loadline.dev/loadline/internal/onnx"
	"loadline.dev/loadline/scoring"
	"loadline.dev/loadline/serving"
)

// A model is a session, and how requests become its inputs.
type model struct {
	session *onnx.Session
	inputs  []input
	outputs []serving.NativeOutput // that are asked for
	at      []int                  // where they are among the session's
	answer  serving.NativeAnswer
}

// An input is one tensor that the session takes.
type input struct {
	kind    onnx.Kind
	flat    bool
	columns []guard
}

// A guard is a column of an input, and what may be asked of it.
type guard struct {
	name  string
	nulls bool
	most  float64 // of the absolute value of numbers
	any   bool
	known map[string]bool
}

// errNotHere says that a request is for the reserve.
var errNotHere = errors.New("not a request for the native engine")

const kinds = "fdqi?s"

// newModel fits what preparation found out to the session that was loaded.
func newModel(s *onnx.Session, n serving.Native) (*model, error) {
	m := &model{session: s, answer: n.Answer}
	if len(n.Inputs) != len(s.Inputs) {
		return nil, fmt.Errorf("the ONNX file has %d inputs, %d are filled", len(s.Inputs), len(n.Inputs))
	}
	for i, in := range n.Inputs {
		port := s.Inputs[i]
		if in.Name != port.Name || len(in.Kind) != 1 || onnx.Kind(in.Kind[0]) != port.Kind || len(in.Columns) == 0 ||
			!bytes.ContainsRune([]byte(kinds), rune(in.Kind[0])) {
			return nil, fmt.Errorf("the ONNX file's input %q of kind %q is not %q of kind %q", port.Name, port.Kind, in.Name, in.Kind)
		}
		if in.Flat && len(in.Columns) != 1 {
			return nil, fmt.Errorf("input %q has one dimension and %d columns", in.Name, len(in.Columns))
		}
		to := input{kind: port.Kind, flat: in.Flat}
		for _, column := range in.Columns {
			to.columns = append(to.columns, guardOf(column, n.Guards))
		}
		m.inputs = append(m.inputs, to)
	}
	m.outputs = slices.Concat(n.Answer.Records, n.Answer.Arrays)
	if len(m.outputs) == 0 {
		m.outputs = []serving.NativeOutput{{Name: n.Answer.Output, Kind: n.Answer.Kind}}
	}
	for _, o := range m.outputs {
		at := slices.IndexFunc(s.Outputs, func(p onnx.Port) bool { return p.Name == o.Name })
		if at < 0 || len(o.Kind) != 1 || n.Answer.Columns < 0 {
			return nil, fmt.Errorf("the ONNX file has no output %q", o.Name)
		}
		m.at = append(m.at, at)
	}
	return m, nil
}

func guardOf(column string, guards []serving.NativeGuard) guard {
	g := guard{name: column, most: math.MaxFloat32}
	for _, from := range guards {
		if from.Column != column {
			continue
		}
		g.nulls, g.any = from.Nulls, from.AnyText
		if from.Within > 0 {
			g.most = from.Within
		}
		g.known = make(map[string]bool, len(from.Known))
		for _, text := range from.Known {
			g.known[text] = true
		}
	}
	return g
}

// run asks the model, and writes its answer. Any error means that the reserve
// has to answer.
func (m *model) run(b *scoring.Batch) ([]byte, error) {
	tensors := make([]onnx.Tensor, len(m.inputs))
	for i := range m.inputs {
		if err := m.inputs[i].fill(&tensors[i], b); err != nil {
			return nil, err
		}
	}
	out, err := m.session.Run(tensors, m.at)
	if err != nil {
		return nil, err
	}
	for i := range out {
		count := 1
		for _, extent := range out[i].Shape {
			count *= int(extent)
		}
		if err := recast(&out[i], onnx.Kind(m.outputs[i].Kind[0]), count); err != nil {
			return nil, err
		}
	}
	switch {
	case len(m.answer.Records) > 0:
		return m.records(out)
	case len(m.answer.Arrays) > 0:
		return m.arrays(out), nil
	}
	count := b.Rows * max(1, m.answer.Columns)
	t := &out[0]
	if len(t.Texts) != count && len(t.Data) != count*width(t.Kind) {
		return nil, fmt.Errorf("an answer of shape %v for %d rows", t.Shape, b.Rows)
	}
	return scoring.AppendValues(make([]byte, 0, 32+24*count), byte(t.Kind), t.Data, t.Texts, m.answer.Columns), nil
}

// records writes outputs as MLflow writes a DataFrame of them, each flattened.
func (m *model) records(out []onnx.Tensor) ([]byte, error) {
	columns := make([]scoring.Array, len(out))
	for i, t := range out {
		columns[i] = scoring.Array{Name: m.outputs[i].Name, Kind: byte(t.Kind), Data: t.Data, Texts: t.Texts}
	}
	text, ok := scoring.AppendRecords(nil, columns)
	if !ok {
		return nil, errors.New("the outputs are of unequal length")
	}
	return text, nil
}

// arrays writes outputs as MLflow writes a dict of arrays.
func (m *model) arrays(out []onnx.Tensor) []byte {
	arrays := make([]scoring.Array, len(out))
	for i, t := range out {
		arrays[i] = scoring.Array{Name: m.outputs[i].Name, Kind: byte(t.Kind), Shape: t.Shape, Data: t.Data, Texts: t.Texts}
	}
	return scoring.AppendArrays(nil, arrays)
}

// recast makes a tensor one of another kind.
func recast(t *onnx.Tensor, to onnx.Kind, count int) (err error) {
	if (t.Kind == 's') != (to == 's') {
		return fmt.Errorf("the answer is of kind %q, not %q", t.Kind, to)
	}
	if to == 's' {
		return nil
	}
	t.Data, err = convert(t.Data, t.Kind, to, count)
	t.Kind = to
	return err
}

// fill makes one tensor of its columns.
func (in *input) fill(t *onnx.Tensor, b *scoring.Batch) error {
	t.Kind = in.kind
	stride := len(in.columns)
	t.Shape = []int64{int64(b.Rows), int64(stride)}
	if in.flat {
		t.Shape = t.Shape[:1]
	}
	switch {
	case in.kind == 's':
		t.Texts = make([]string, b.Rows*stride)
	default:
		t.Data = make([]byte, b.Rows*stride*width(in.kind))
	}
	for at := range in.columns {
		g := &in.columns[at]
		c := find(b, g.name)
		if c == nil {
			return errNotHere // an optional column that is absent
		}
		if c.Shape != nil {
			return in.tensor(t, c, g)
		}
		var err error
		if in.kind == 's' {
			err = g.texts(t.Texts, c, at, stride)
		} else {
			err = g.numbers(t.Data, in.kind, c, at, stride)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tensor takes an input that came as one.
func (in *input) tensor(t *onnx.Tensor, c *scoring.Column, g *guard) error {
	t.Shape = t.Shape[:0]
	count := 1
	for _, extent := range c.Shape {
		t.Shape = append(t.Shape, int64(extent))
		count *= extent
	}
	t.Data = make([]byte, count*width(in.kind))
	return g.numbers(t.Data, in.kind, c, 0, 1)
}

func find(b *scoring.Batch, name string) *scoring.Column {
	for i := range b.Columns {
		if b.Columns[i].Name == name {
			return &b.Columns[i]
		}
	}
	return nil
}

func width(k onnx.Kind) int {
	switch k {
	case 'd', 'q':
		return 8
	case 'f', 'i':
		return 4
	}
	return 1
}

// texts copies a column of texts to every stride-th place from at on.
func (g *guard) texts(dst []string, c *scoring.Column, at, stride int) error {
	if c.Kind != 's' {
		return errNotHere
	}
	whole := c.Texts(func(text []byte) bool {
		// ONNX Runtime reads texts up to a NUL.
		if !g.any && !g.known[string(text)] || bytes.IndexByte(text, 0) >= 0 {
			return false
		}
		dst[at] = string(text)
		at += stride
		return true
	})
	if !whole {
		return errNotHere
	}
	return nil
}

// numbers copies a column of numbers to every stride-th place from at on, as
// kind. What was not compared is not asked here. (Beyond float32, scikit-learn's
// trees refuse a number that float64 still holds.)
func (g *guard) numbers(dst []byte, kind onnx.Kind, c *scoring.Column, at, stride int) error {
	le := binary.LittleEndian
	from := onnx.Kind(c.Kind)
	if from == 's' {
		return errNotHere
	}
	for i, n := 0, len(c.Data)/width(from); i < n; i, at = i+1, at+stride {
		var f float64
		var q int64
		switch from {
		case 'd':
			f = math.Float64frombits(le.Uint64(c.Data[8*i:]))
		case 'f':
			f = float64(math.Float32frombits(le.Uint32(c.Data[4*i:])))
		case 'q':
			q = int64(le.Uint64(c.Data[8*i:]))
		case 'i':
			q = int64(int32(le.Uint32(c.Data[4*i:])))
		case '?':
			q = int64(c.Data[i])
		}
		whole := from != 'd' && from != 'f'
		if whole {
			f = float64(q)
		}
		if f != f && !g.nulls || math.Abs(f) > g.most {
			return errNotHere
		}
		switch kind {
		case 'd':
			le.PutUint64(dst[8*at:], math.Float64bits(f))
		case 'f':
			le.PutUint32(dst[4*at:], math.Float32bits(float32(f)))
		case 'q':
			le.PutUint64(dst[8*at:], uint64(q))
		case 'i':
			le.PutUint32(dst[4*at:], uint32(int32(q)))
		case '?':
			dst[at] = byte(q)
		}
		if !whole && kind != 'd' && kind != 'f' || kind == 'i' && q != int64(int32(q)) || kind == '?' && from != '?' {
			return errNotHere
		}
	}
	return nil
}

// convert makes numbers of one kind of those of another: MLflow's answer is
// float64 where the model computes in float32, or bool where ONNX has int64.
func convert(data []byte, from, to onnx.Kind, count int) ([]byte, error) {
	if width(from) == 0 || len(data) != count*width(from) {
		return nil, fmt.Errorf("%d bytes for %d numbers", len(data), count)
	}
	if from == to {
		return data, nil
	}
	le := binary.LittleEndian
	out := make([]byte, count*width(to))
	for i := range count {
		var f float64
		var q int64
		switch from {
		case 'd':
			f = math.Float64frombits(le.Uint64(data[8*i:]))
			q = int64(f)
		case 'f':
			f = float64(math.Float32frombits(le.Uint32(data[4*i:])))
			q = int64(f)
		case 'q':
			q = int64(le.Uint64(data[8*i:]))
			f = float64(q)
		case 'i':
			q = int64(int32(le.Uint32(data[4*i:])))
			f = float64(q)
		case '?':
			q = int64(data[i])
			f = float64(q)
		default:
			return nil, fmt.Errorf("the answer is of kind %q", from)
		}
		switch to {
		case 'd':
			le.PutUint64(out[8*i:], math.Float64bits(f))
		case 'f':
			le.PutUint32(out[4*i:], math.Float32bits(float32(f)))
		case 'q':
			le.PutUint64(out[8*i:], uint64(q))
		case 'i':
			le.PutUint32(out[4*i:], uint32(int32(q)))
		case '?':
			out[i] = byte(q & 1)
		default:
			return nil, fmt.Errorf("an answer of kind %q is not served", to)
		}
	}
	return out, nil
}
