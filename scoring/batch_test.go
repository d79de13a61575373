package scoring

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"
)

const mixed = `[{"type":"double","name":"a","required":true},{"type":"string","name":"s","required":true},{"type":"long","name":"n","required":false}]`

// Whatever the order of a body, a batch has the signature's.
func TestBatchHasTheOrderOfTheSignature(t *testing.T) {
	r := NewReader(mixed, "", false)
	b, ok := r.Batch([]byte(`{"dataframe_records":[{"n":7,"s":"é","a":1.5},{"n":8,"s":"","a":null}]}`))
	if !ok || b.Rows != 2 || len(b.Columns) != 3 {
		t.Fatalf("got %+v, %v", b, ok)
	}
	var texts []string
	whole := b.Columns[1].Texts(func(s []byte) bool { texts = append(texts, string(s)); return true })
	got := fmt.Sprint(b.Columns[0].Name+" "+b.Columns[1].Name+" "+b.Columns[2].Name, texts, whole,
		math.Float64frombits(binary.LittleEndian.Uint64(b.Columns[0].Data)), b.Columns[2].Data[8])
	if want := "a s n[é ] true 1.5 8"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if b, ok = r.Batch([]byte(`{"dataframe_split":{"columns":["s","a"],"data":[[null,1.0]]}}`)); !ok || len(b.Columns) != 2 {
		t.Fatalf("an absent optional column: got %+v, %v", b, ok)
	}
	if b.Columns[1].Texts(func([]byte) bool { return true }) {
		t.Error("a null went for a text")
	}
}

// A batch is taken exactly when columns are.
func TestBatchTakesWhatColumnsTakes(t *testing.T) {
	r := NewReader(mixed, `[{"name":"p","type":"double","default":1.0,"shape":null}]`, false)
	for body, want := range map[string]string{
		`{"inputs":{"a":1.0,"s":"x"}}`:                     "true false",
		`{"inputs":{"a":1.0,"s":"x"},"params":{"p":2.0}}`:  "true true",
		`{"inputs":{"a":"1","s":"x"}}`:                     "false false",
		`{"dataframe_split":{"columns":["a"],"data":[]}}`:  "false false",
		`{"inputs":{"a":1.0,"s":"x"},"params":null}`:       "true false",
		`{"inputs":{"a":[1.0,2.0],"s":["x"],"n":[1,2]}}`:   "false false",
		`{"instances":[{"a":1,"s":"x"},{"a":2,"s":"y"}]}}`: "false false",
	} {
		b, ok := r.Batch([]byte(body))
		_, columns := r.Columns(nil, []byte(body))
		if got := fmt.Sprint(ok, b.Params); got != want || ok != columns {
			t.Errorf("%s: got %s, want %s; as columns %v", body, got, want, columns)
		}
	}
}

func TestValuesArePrintedAsTables(t *testing.T) {
	f := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, math.Float32bits(0.1)), math.Float32bits(2))
	for want, got := range map[string][]byte{
		`{"predictions": [0.10000000149011612, 2.0]}`:     AppendValues(nil, 'f', f, nil, 0),
		`{"predictions": [[0.10000000149011612, 2.0]]}`:   AppendValues(nil, 'f', f, nil, 2),
		`{"predictions": [[0.10000000149011612], [2.0]]}`: AppendValues(nil, 'f', f, nil, 1),
		`{"predictions": ["a\u00e9", "\""]}`:              AppendValues(nil, 's', nil, []string{"aé", `"`}, 0),
		`{"predictions": []}`:                             AppendValues(nil, 'q', nil, nil, 0),
	} {
		if string(got) != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestSeveralTensorsMakeRecordsOrArrays(t *testing.T) {
	two := []Array{{Name: "label", Kind: 's', Shape: []int64{2, 1}, Texts: []string{"a", "b"}},
		{Name: "p\u00e9", Kind: '?', Shape: []int64{1, 2}, Data: []byte{1, 0}}}
	got, ok := AppendRecords(nil, two)
	if want := `{"predictions": [{"label": "a", "p\u00e9": true}, {"label": "b", "p\u00e9": false}]}`; string(got) != want || !ok {
		t.Errorf("got %s, %v, want %s", got, ok, want)
	}
	if got, want := string(AppendArrays(nil, two)), `{"predictions": {"label": [["a"], ["b"]], "p\u00e9": [[true, false]]}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	two[1].Data = two[1].Data[:1]
	if _, ok := AppendRecords(nil, two); ok {
		t.Error("outputs of unequal length were put side by side")
	}
	if got := string(AppendArrays(nil, []Array{{Name: "n", Kind: 'q', Shape: []int64{0, 3}}})); got != `{"predictions": {"n": []}}` {
		t.Errorf("no rows: got %s", got)
	}
}
