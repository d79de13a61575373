package onnx

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"loadline.dev/loadline/test/harness"
)

// opened is ONNX Runtime as the tests' tool environment has it.
func opened(t testing.TB) *Library {
	t.Helper()
	env := harness.Needed(t, "LOADLINE_TEST_TOOLS")
	found, err := filepath.Glob(filepath.Join(env, "lib", "python3*", "site-packages", "onnxruntime", "capi", "libonnxruntime.so.*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no ONNX Runtime in %s: %v", env, err)
	}
	l, err := Open(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func loaded(t testing.TB, name string) *Session {
	t.Helper()
	s, err := opened(t).Load(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func doubles(columns int, values ...float64) Tensor {
	t := Tensor{Kind: 'd', Shape: []int64{int64(len(values) / columns), int64(columns)}}
	for _, v := range values {
		t.Data = binary.LittleEndian.AppendUint64(t.Data, math.Float64bits(v))
	}
	return t
}

func floats(t Tensor) (values []float64) {
	for i := 0; i < len(t.Data); i += 8 {
		values = append(values, math.Float64frombits(binary.LittleEndian.Uint64(t.Data[i:])))
	}
	return values
}

func TestNumbersAndTextsCross(t *testing.T) {
	s := loaded(t, "mixed.onnx")
	if got := fmt.Sprint(s.Inputs, s.Outputs); got != "[{city 115 [-1 1]} {n 100 [-1 1]}] [{score 100 [-1 1]} {text 115 [-1 1]}]" {
		t.Errorf("ports are %s", got)
	}
	texts := Tensor{Kind: 's', Shape: []int64{3, 1}, Texts: []string{"Rome", "", "Łódź"}}
	out, err := s.Run([]Tensor{texts, doubles(1, 10, 20, 0.5)}, []int{1, 0})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%q %v", out[0].Texts, floats(out[1])); got != `["Rome" "" "Łódź"] [12 19 -0.5]` {
		t.Errorf("got %s", got)
	}
}

// One session answers many at once, each with its own rows.
func TestRunsDoNotMix(t *testing.T) {
	s := loaded(t, "affine.onnx")
	var all sync.WaitGroup
	for k := range 8 {
		all.Go(func() {
			for i := range 200 {
				v := float64(1000*k + i)
				out, err := s.Run([]Tensor{doubles(2, v, 1, v, 2)}, []int{0})
				if err != nil || floats(out[0])[0] != 2*(v+1) || floats(out[0])[1] != 2*(v+2) {
					t.Errorf("%v: got %v, %v", v, floats(out[0]), err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestWhatDoesNotFitIsAnError(t *testing.T) {
	s := loaded(t, "mixed.onnx")
	one := Tensor{Kind: 's', Shape: []int64{1, 1}, Texts: []string{"x"}}
	for name, c := range map[string]struct {
		in   []Tensor
		want string
	}{
		"too few inputs":     {[]Tensor{one}, "has 2 inputs, 1 were given"},
		"another kind":       {[]Tensor{one, {Kind: 'f', Shape: []int64{1, 1}, Data: make([]byte, 4)}}, "Unexpected input data type"},
		"another shape":      {[]Tensor{one, doubles(2, 1, 2)}, "invalid dimensions"},
		"too few bytes":      {[]Tensor{one, {Kind: 'd', Shape: []int64{2, 1}, Data: make([]byte, 8)}}, "8 bytes for a shape"},
		"too few texts":      {[]Tensor{{Kind: 's', Shape: []int64{2, 1}, Texts: []string{"x"}}, doubles(1, 1)}, "1 texts for a shape"},
		"a NUL in a text":    {[]Tensor{{Kind: 's', Shape: []int64{1, 1}, Texts: []string{"a\x00b"}}, doubles(1, 1)}, "NUL"},
		"a kind without any": {[]Tensor{one, {Kind: 'x', Shape: []int64{1, 1}, Data: make([]byte, 8)}}, "8 bytes"},
	} {
		if _, err := s.Run(c.in, []int{0}); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// A broken file is refused, in ONNX Runtime's own words where it has some.
func TestBrokenModelsAreRefused(t *testing.T) {
	l, whole := opened(t), read(t, "affine.onnx")
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":     {nil, "empty"},
		"text":      {[]byte("not a model at all"), "no ONNX file"},
		"truncated": {whole[:len(whole)/2], "cut off"},
		"an operator that nobody knows": {[]byte(strings.Replace(string(whole), "MatMul", "MatMuk", 1)),
			"MatMuk"},
		"an edge that leads nowhere": {[]byte(strings.Replace(string(whole), "\x0a\x01X\x0a\x01W\x12\x01Y", "\x0a\x01X\x0a\x01V\x12\x01Y", 1)),
			"ONNX Runtime: "},
		"a graph in a circle": {[]byte(strings.Replace(string(whole), "\x0a\x01X\x0a\x01W\x12\x01Y", "\x0a\x01Y\x0a\x01W\x12\x01Y", 1)),
			"ONNX Runtime: "},
	} {
		s, err := l.Load(c.data)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// What lies in another file is nobody's to name.
func TestOutsideDataIsRefused(t *testing.T) {
	field := func(number, wire uint64, payload ...byte) []byte {
		b := binary.AppendUvarint(nil, number<<3|wire)
		if wire == 2 {
			b = binary.AppendUvarint(b, uint64(len(payload)))
		}
		return append(b, payload...)
	}
	tensorWith := field(14, 0, 1)
	plain := field(1, 0, 3)
	for name, c := range map[string]struct {
		model []byte
		want  error
	}{
		"an initializer":                 {field(7, 2, field(5, 2, tensorWith...)...), errExternal},
		"an attribute of a node":         {field(7, 2, field(1, 2, field(5, 2, field(5, 2, tensorWith...)...)...)...), errExternal},
		"a graph within a node":          {field(7, 2, field(1, 2, field(5, 2, field(6, 2, field(5, 2, tensorWith...)...)...)...)...), errExternal},
		"a function":                     {field(25, 2, field(7, 2, field(5, 2, field(5, 2, tensorWith...)...)...)...), errExternal},
		"a sparse initializer":           {field(7, 2, field(15, 2, field(1, 2, tensorWith...)...)...), errExternal},
		"a path alone":                   {field(7, 2, field(5, 2, field(13, 2, 'x')...)...), errExternal},
		"a location that says inside":    {field(7, 2, field(5, 2, field(14, 0, 0)...)...), nil},
		"nothing of the kind":            {field(7, 2, field(5, 2, plain...)...), nil},
		"a length beyond the end":        {[]byte{7<<3 | 2, 200}, errTruncated},
		"a group, which is not used":     {[]byte{7<<3 | 3}, errTruncated},
		"graphs in graphs without limit": {nested(100), errNested},
	} {
		if err := selfContained(c.model); err != c.want {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func nested(n int) []byte {
	var g []byte
	for range n {
		for _, number := range []uint64{6, 5, 1} { // graph in attribute in node in graph
			g = append(binary.AppendUvarint(binary.AppendUvarint(nil, number<<3|2), uint64(len(g))), g...)
		}
	}
	return append(binary.AppendUvarint([]byte{7<<3 | 2}, uint64(len(g))), g...)
}

func FuzzSelfContained(f *testing.F) {
	f.Add(read(f, "mixed.onnx"))
	f.Add(nested(3))
	f.Fuzz(func(_ *testing.T, data []byte) { _ = selfContained(data) })
}

func TestOtherVersionsAreRefused(t *testing.T) {
	for version, want := range map[string]bool{"1.17.0": true, "1.32.0": true, "1.16.3": false, "2.0.0": false, "1.99.0": false, "": false, "1.x": false} {
		if err := checkVersion(version); (err == nil) != want {
			t.Errorf("%q: got %v", version, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "no.so")); err == nil {
		t.Error("a library that is not there was loaded")
	}
}

func BenchmarkRun(b *testing.B) {
	s := loaded(b, "affine.onnx")
	in := []Tensor{doubles(2, 1, 2)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Run(in, []int{0}); err != nil {
			b.Fatal(err)
		}
	}
}
