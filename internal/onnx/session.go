package onnx

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

// A Kind is what a tensor's elements are, by numpy's letter; 's' is text.
type Kind byte

// elements are ONNX's numbers of the kinds: enum ONNXTensorElementDataType.
var elements = map[Kind]uintptr{'f': 1, 'B': 2, 'b': 3, 'H': 4, 'h': 5, 'i': 6, 'q': 7, 's': 8, '?': 9, 'd': 11, 'I': 12, 'Q': 13}

var kinds = func() map[uint32]Kind {
	m := map[uint32]Kind{}
	for k, n := range elements {
		m[uint32(n)] = k
	}
	return m
}()

var widths = [256]int{'f': 4, 'B': 1, 'b': 1, 'H': 2, 'h': 2, 'i': 4, 'q': 8, '?': 1, 'd': 8, 'I': 4, 'Q': 8}

// A Port is an input or an output of a model.
type Port struct {
	Name  string
	Kind  Kind
	Shape []int64 // -1 where any extent will do
}

// A Tensor is one value that goes in or comes out. Data holds numbers,
// little-endian, the last dimension fastest; Texts holds texts instead.
type Tensor struct {
	Kind  Kind
	Shape []int64
	Data  []byte
	Texts []string
}

// A Session is one loaded model. Run may be called from many goroutines at once.
type Session struct {
	Inputs, Outputs []Port

	lib     *Library
	handle  uintptr
	options uintptr  // of every run
	names   [][]byte // of inputs, then outputs, as C reads them
	scratch sync.Pool
}

// Load makes a session of a model's bytes, which may point at no other file.
// It runs on the thread that calls Run and starts none of its own.
func (l *Library) Load(model []byte) (*Session, error) {
	if len(model) == 0 {
		return nil, errors.New("ONNX Runtime: the model is empty")
	}
	if err := selfContained(model); err != nil {
		return nil, err
	}
	options, err := l.options()
	if err != nil {
		return nil, err
	}
	defer l.call(releaseOptions, options)
	s := &Session{lib: l}
	err = l.do(createSessionFromData, l.env, uintptr(unsafe.Pointer(&model[0])), uintptr(len(model)), options, uintptr(unsafe.Pointer(&s.handle)))
	if err != nil {
		return nil, err
	}
	if s.Inputs, err = s.ports(inputCount, inputName, inputType); err == nil {
		s.Outputs, err = s.ports(outputCount, outputName, outputType)
	}
	if err == nil {
		err = l.do(createRunOptions, uintptr(unsafe.Pointer(&s.options)))
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.scratch.New = func() any { return newScratch(s) }
	return s, nil
}

// options are those of every session: one thread, none that spins, and memory
// given back after each run rather than kept for the largest that ever came.
func (l *Library) options() (uintptr, error) {
	var o uintptr
	if err := l.do(createOptions, uintptr(unsafe.Pointer(&o))); err != nil {
		return 0, err
	}
	const all = 99
	err := errors.Join(
		l.do(setIntraThreads, o, 1), l.do(setInterThreads, o, 1), l.do(setOptimization, o, all),
		l.do(disableMemPattern, o), l.do(disableArena, o))
	for _, entry := range [][2]string{{"session.intra_op.allow_spinning", "0"}, {"session.inter_op.allow_spinning", "0"}} {
		key, value := cBytes(entry[0]), cBytes(entry[1])
		err = errors.Join(err, l.do(addConfigEntry, o, uintptr(unsafe.Pointer(&key[0])), uintptr(unsafe.Pointer(&value[0]))))
	}
	if err != nil {
		l.call(releaseOptions, o)
		return 0, err
	}
	return o, nil
}

func (s *Session) ports(count, name, kind int) ([]Port, error) {
	var n uintptr
	if err := s.lib.do(count, s.handle, uintptr(unsafe.Pointer(&n))); err != nil {
		return nil, err
	}
	var all []Port
	for i := range n {
		var text uintptr
		if err := s.lib.do(name, s.handle, i, s.lib.alloc, uintptr(unsafe.Pointer(&text))); err != nil {
			return nil, err
		}
		p := Port{Name: cString(text)}
		if err := s.lib.do(allocatorFree, s.lib.alloc, text); err != nil {
			return nil, err
		}
		s.names = append(s.names, cBytes(p.Name))
		if err := s.describe(&p, i, kind); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// describe fills in what a port holds.
func (s *Session) describe(p *Port, i uintptr, kind int) error {
	l := s.lib
	var info, tensor uintptr
	if err := l.do(kind, s.handle, i, uintptr(unsafe.Pointer(&info))); err != nil {
		return err
	}
	defer l.call(releaseTypeInfo, info)
	const isTensor = 1
	var what uint32
	if err := l.do(onnxType, info, uintptr(unsafe.Pointer(&what))); err != nil {
		return err
	}
	if what != isTensor {
		return fmt.Errorf("%q is no tensor", p.Name)
	}
	if err := l.do(castToTensor, info, uintptr(unsafe.Pointer(&tensor))); err != nil {
		return err
	}
	var err error
	p.Kind, p.Shape, err = l.shape(tensor)
	if err == nil && p.Kind == 0 {
		err = fmt.Errorf("%q holds a kind of elements that is not served", p.Name)
	}
	return err
}

// shape reads an OrtTensorTypeAndShapeInfo. Kind is zero for one that has no letter.
func (l *Library) shape(info uintptr) (Kind, []int64, error) {
	var element uint32
	var n uintptr
	if err := l.do(elementType, info, uintptr(unsafe.Pointer(&element))); err != nil {
		return 0, nil, err
	}
	if err := l.do(dimensionCount, info, uintptr(unsafe.Pointer(&n))); err != nil {
		return 0, nil, err
	}
	shape := make([]int64, n)
	if n > 0 {
		if err := l.do(dimensions, info, uintptr(unsafe.Pointer(&shape[0])), n); err != nil {
			return 0, nil, err
		}
	}
	return kinds[element], shape, nil
}

// Terminate has every run that is under way end with an error, soon: ONNX
// Runtime looks at it between two operators.
func (s *Session) Terminate() { s.lib.call(setTerminate, s.options) }

// Close gives the session's memory back. No Run may be under way, and none may follow.
func (s *Session) Close() {
	if s.options != 0 {
		s.lib.call(releaseRunOptions, s.options)
	}
	s.lib.call(releaseSession, s.handle)
	s.options, s.handle = 0, 0
}

// A scratch is what one run hands to C besides the tensors' own data. It is
// used again, so that a run allocates little.
type scratch struct {
	inNames, outNames []uintptr
	in, out           []uintptr // OrtValue
	shape             []int64
	info              uintptr
	n                 uintptr
	element           uint32
}

func newScratch(s *Session) *scratch {
	c := &scratch{in: make([]uintptr, len(s.Inputs)), out: make([]uintptr, len(s.Outputs)), shape: make([]int64, 8)}
	for i, name := range s.names {
		p := uintptr(unsafe.Pointer(&name[0])) // the session keeps it
		if i < len(s.Inputs) {
			c.inNames = append(c.inNames, p)
		} else {
			c.outNames = append(c.outNames, p)
		}
	}
	return c
}

// Run asks the model. in has one tensor for each of Inputs, in their order; the
// result one for each of Outputs that wanted names by index, in that order.
func (s *Session) Run(in []Tensor, wanted []int) ([]Tensor, error) {
	if len(in) != len(s.Inputs) {
		return nil, fmt.Errorf("the model has %d inputs, %d were given", len(s.Inputs), len(in))
	}
	l := s.lib
	c := s.scratch.Get().(*scratch)
	clear(c.in)
	clear(c.out)
	defer func() {
		for _, values := range [][]uintptr{c.in, c.out} {
			for _, v := range values {
				if v != 0 {
					l.call(releaseValue, v)
				}
			}
		}
		s.scratch.Put(c)
	}()
	for i := range in {
		if err := s.give(c, i, &in[i]); err != nil {
			return nil, fmt.Errorf("input %q: %w", s.Inputs[i].Name, err)
		}
	}
	names := make([]uintptr, len(wanted))
	for i, w := range wanted {
		names[i] = c.outNames[w]
	}
	var first uintptr
	if len(c.in) > 0 {
		first = uintptr(unsafe.Pointer(&c.in[0]))
	}
	err := l.do(runSession, s.handle, s.options, uintptr(unsafe.Pointer(unsafe.SliceData(c.inNames))), first, uintptr(len(in)),
		uintptr(unsafe.Pointer(unsafe.SliceData(names))), uintptr(len(names)), uintptr(unsafe.Pointer(unsafe.SliceData(c.out))))
	runtime.KeepAlive(in)
	if err != nil {
		return nil, err
	}
	result := make([]Tensor, len(wanted))
	for i := range wanted {
		if err := l.read(c, c.out[i], &result[i]); err != nil {
			return nil, fmt.Errorf("output %q: %w", s.Outputs[wanted[i]].Name, err)
		}
	}
	return result, nil
}

// give makes a value of a tensor. Numbers are not copied.
func (s *Session) give(c *scratch, i int, t *Tensor) error {
	l, count := s.lib, int64(1)
	for _, extent := range t.Shape {
		count *= extent
	}
	dims := uintptr(unsafe.Pointer(unsafe.SliceData(t.Shape)))
	value := uintptr(unsafe.Pointer(&c.in[i]))
	if t.Kind != 's' {
		if int64(len(t.Data)) != count*int64(widths[t.Kind]) {
			return fmt.Errorf("%d bytes for a shape of %v", len(t.Data), t.Shape)
		}
		return l.do(createTensorOnData, l.memory, uintptr(unsafe.Pointer(unsafe.SliceData(t.Data))), uintptr(len(t.Data)),
			uintptr(unsafe.Pointer(unsafe.SliceData(t.Shape))), uintptr(len(t.Shape)), elements[t.Kind], value)
	}
	if int64(len(t.Texts)) != count {
		return fmt.Errorf("%d texts for a shape of %v", len(t.Texts), t.Shape)
	}
	if err := l.do(createTensor, l.alloc, dims, uintptr(len(t.Shape)), elements['s'], value); err != nil || count == 0 {
		return err
	}
	size := 0
	for _, text := range t.Texts {
		size += len(text) + 1
	}
	// Room for all of it at once, so that the pointers stay good.
	buf, starts := make([]byte, 0, size), make([]uintptr, len(t.Texts))
	for k, text := range t.Texts {
		if strings.IndexByte(text, 0) >= 0 {
			return errors.New("a text holds a NUL character")
		}
		starts[k] = uintptr(unsafe.Pointer(unsafe.SliceData(buf))) + uintptr(len(buf))
		buf = append(append(buf, text...), 0)
	}
	err := l.do(fillStrings, c.in[i], uintptr(unsafe.Pointer(&starts[0])), uintptr(len(starts)))
	runtime.KeepAlive(buf)
	return err
}

// read copies a value out.
func (l *Library) read(c *scratch, value uintptr, t *Tensor) error {
	if err := l.do(typeAndShape, value, uintptr(unsafe.Pointer(&c.info))); err != nil {
		return err
	}
	defer l.call(releaseShape, c.info)
	if err := l.do(elementType, c.info, uintptr(unsafe.Pointer(&c.element))); err != nil {
		return err
	}
	if err := l.do(dimensionCount, c.info, uintptr(unsafe.Pointer(&c.n))); err != nil {
		return err
	}
	t.Kind, t.Shape = kinds[c.element], make([]int64, c.n)
	count := int64(1)
	if c.n > 0 {
		if err := l.do(dimensions, c.info, uintptr(unsafe.Pointer(&t.Shape[0])), c.n); err != nil {
			return err
		}
		for _, extent := range t.Shape {
			count *= extent
		}
	}
	switch {
	case t.Kind == 0:
		return errors.New("its elements are of a kind that is not served")
	case t.Kind == 's':
		return l.readTexts(value, int(count), t)
	case count == 0:
		return nil
	}
	if err := l.do(tensorData, value, uintptr(unsafe.Pointer(&c.n))); err != nil {
		return err
	}
	t.Data = append([]byte(nil), unsafe.Slice(at[byte](c.n), int(count)*widths[t.Kind])...)
	return nil
}

func (l *Library) readTexts(value uintptr, count int, t *Tensor) error {
	if count == 0 {
		return nil
	}
	var size uintptr
	if err := l.do(stringsLength, value, uintptr(unsafe.Pointer(&size))); err != nil {
		return err
	}
	buf, starts := make([]byte, size+1), make([]uintptr, count)
	err := l.do(stringsContent, value, uintptr(unsafe.Pointer(&buf[0])), size, uintptr(unsafe.Pointer(&starts[0])), uintptr(count))
	if err != nil {
		return err
	}
	starts = append(starts, size)
	for i := range count {
		t.Texts = append(t.Texts, string(buf[starts[i]:starts[i+1]]))
	}
	return nil
}
