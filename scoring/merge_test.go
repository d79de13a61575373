package scoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

const fourKinds = `[{"name": "d", "type": "double"}, {"name": "i", "type": "integer"}, {"name": "s", "type": "string"}, {"name": "b", "type": "boolean"}]`

// drawRows makes rows of the fourKinds signature as JSON texts.
func drawRows(dice *rand.Rand, n int) []string {
	words := []string{"", "a", "Łódź", "a rather long text"}
	rows := make([]string, n)
	for i := range rows {
		word, _ := json.Marshal(words[dice.IntN(len(words))])
		rows[i] = fmt.Sprintf(`{"d": %v, "i": %d, "s": %s, "b": %v}`, dice.NormFloat64(), dice.Int32(), word, dice.IntN(2) == 0)
	}
	return rows
}

func TestMergedRequestsAreTheRequestWithAllRows(t *testing.T) {
	dice := rand.New(rand.NewPCG(3, 5))
	r := NewReader(fourKinds, "", false)
	columns := func(key string, rows []string) []byte {
		body := fmt.Sprintf(`{%q: [%s]}`, key, strings.Join(rows, ", "))
		out, ok := r.Columns(nil, []byte(body))
		if !ok {
			t.Fatalf("does not cross: %s", body)
		}
		return out
	}
	for _, key := range []string{"dataframe_records", "instances", "inputs"} {
		for range 50 {
			var all []string
			var parts [][]byte
			for range 1 + dice.IntN(5) {
				rows := drawRows(dice, 1+dice.IntN(4))
				part := columns(key, rows)
				if Rows(part) != len(rows) {
					t.Fatalf("%d rows, want %d", Rows(part), len(rows))
				}
				all, parts = append(all, rows...), append(parts, part)
			}
			if got, want := Merge(nil, parts), columns(key, all); !bytes.Equal(got, want) {
				t.Fatalf("%s: %v\n got %x\nwant %x", key, all, got, want)
			}
		}
	}
}

func TestWhatMustNotShareATable(t *testing.T) {
	r := NewReader(fourKinds, `[{"name": "p", "type": "long", "default": 1}]`, false)
	row := `[1.5, 2, "x", true]`
	for what, body := range map[string]string{
		"an index":       `{"dataframe_split": {"columns": ["d", "i", "s", "b"], "data": [` + row + `], "index": [4]}}`,
		"params":         `{"dataframe_split": {"columns": ["d", "i", "s", "b"], "data": [` + row + `]}, "params": {"p": 2}}`,
		"a missing text": `{"dataframe_split": {"columns": ["d", "i", "s", "b"], "data": [` + row + `, [1, 2, null, true]]}}`,
	} {
		payload, ok := r.Columns(nil, []byte(body))
		if !ok {
			t.Fatalf("%s: does not cross", what)
		}
		if n := Rows(payload); n != 0 {
			t.Errorf("%s: %d rows may be shared", what, n)
		}
	}
	a, _ := r.Columns(nil, []byte(`{"dataframe_records": [{"d": 1, "i": 2, "s": "x", "b": true}]}`))
	for _, other := range []string{`{"instances": [{"d": 1, "i": 2, "s": "x", "b": true}]}`, `{"dataframe_records": [{"i": 2, "d": 1, "s": "x", "b": true}]}`} {
		if b, ok := r.Columns(nil, []byte(other)); !ok || Alike(a, b) {
			t.Errorf("alike with %s (%v)", other, ok)
		}
	}
}

// takenApart is a table's text put together from texts of single rows.
func takenApart(t *Table) string {
	var rows []string
	for i := range t.Rows {
		one := string(t.Append(nil, i, i+1))
		rows = append(rows, strings.TrimSuffix(strings.TrimPrefix(one, `{"predictions": [`), "]}"))
	}
	return `{"predictions": [` + strings.Join(rows, ", ") + "]}"
}
