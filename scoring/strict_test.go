package scoring

import (
	"strings"
	"testing"
)

func TestStrictNamesWhatWouldBeAltered(t *testing.T) {
	r := NewReader(`[{"type":"double","name":"d","required":true},{"type":"float","name":"f","required":false},{"type":"long","name":"l","required":false},
{"type":"integer","name":"i","required":false},{"type":"boolean","name":"b","required":false},{"type":"string","name":"s","required":false},
{"type":"binary","name":"y","required":false},{"type":"datetime","name":"t","required":false},{"type":"array","items":{"type":"double"},"name":"v","required":false}]`,
		`[{"name":"p","type":"double"}]`, false)
	record := func(member string) string { return `{"dataframe_records":[{"d":1,` + member + `}]}` }
	inputs := func(member string) string { return `{"inputs":{"d":[1],` + member + `}}` }
	for name, c := range map[string]struct {
		body string
		want string // "" lets it pass
	}{
		"fitting values":                  {record(`"f":1.5,"l":2,"i":3,"b":true,"s":"x","y":"aGk=","t":"2024-01-02","v":[1]`), ""},
		"null where it means missing":     {`{"dataframe_records":[{"d":null,"s":null}]}`, ""},
		"a fraction in a long":            {record(`"l":2.5`), `row 0, column "l": 2.5 is not a whole number`},
		"a whole float in a long":         {record(`"l":2.0`), ""},
		"true in a long":                  {record(`"l":true`), `true is not a number`},
		"text in a long":                  {record(`"l":"7"`), `"7" is not a number`},
		"text in a double":                {`{"dataframe_records":[{"d":1},{"d":"1.5"}]}`, `row 1, column "d": "1.5" is not a number`},
		"2^31 in an integer":              {record(`"i":2147483648`), `2147483648 is out of range for integer`},
		"2^63 in a long":                  {record(`"l":9223372036854775808`), `out of range for long`},
		"1e30 in a long":                  {record(`"l":1e30`), `out of range for long`},
		"1e400 in a double":               {`{"inputs":{"d":[1,1e400]}}`, `row 1, column "d": 1e400 is out of range`},
		"1e39 in a float":                 {record(`"f":1e39`), `out of range for float`},
		"NaN in a double":                 {`{"inputs":{"d":[NaN,-Infinity]}}`, ""},
		"a fraction beside NaN":           {`{"dataframe_records":[{"d":NaN,"l":2.5}]}`, `2.5 is not a whole number`},
		"large beside a float":            {`{"dataframe_split":{"columns":["d","l"],"data":[[1,9007199254740993],[1,2.0]]}}`, `row 0, column "l": a whole number beyond 2^53`},
		"null in a boolean":               {record(`"b":null`), `null is not true or false`},
		"1 in a boolean":                  {inputs(`"b":[1]`), `row 0, column "b": 1 is not true or false`},
		"a number in a string":            {record(`"s":5`), `5 is not a string`},
		"a list in a string":              {record(`"s":[5]`), `[5] is not a string`},
		"null in a string, by column":     {inputs(`"s":[null]`), `None`},
		"garbage in a binary":             {record(`"y":"!!!!"`), `not base64`},
		"binary outside frames":           {inputs(`"y":["!!!!"]`), ""},
		"a number in a datetime":          {record(`"t":5`), `nanoseconds`},
		"an empty text in a datetime":     {record(`"t":""`), `missing time`},
		"the year 1500":                   {inputs(`"t":["1500-01-01"]`), `1678 to 2261`},
		"an extra column":                 {record(`"zz":5`), `row 0, column "zz": the signature has no such column`},
		"an extra column of split":        {`{"dataframe_split":{"columns":["d","zz"],"data":[[1,2]]}}`, `column "zz"`},
		"a column twice in a row":         {record(`"d":2`), `twice`},
		"a column twice by column":        {inputs(`"d":[2]`), `twice`},
		"a short row":                     {`{"dataframe_split":{"columns":["d","l"],"data":[[1,2],[1]]}}`, `row 1, column "l": the row has 1 values for 2 columns`},
		"a short row, data first":         {`{"dataframe_split":{"data":[[1,2],[1]],"columns":["d","l"]}}`, `row 1, column "l"`},
		"a value missing in a record":     {`{"dataframe_records":[{"d":1,"s":"x"},{"d":1}]}`, `row 1, column "s": the value is missing`},
		"a value missing in the first":    {`{"dataframe_records":[{"d":1},{"d":1,"s":"x"}]}`, `row 0, column "s": the value is missing`},
		"an unknown param":                {`{"params":{"q":1},"inputs":{"d":[1]}}`, `param "q" would be dropped`},
		"a known param":                   {`{"params":{"p":1},"inputs":{"d":[1]}}`, ""},
		"a key twice":                     {`{"inputs":{"d":[1]},"inputs":{"d":[2]}}`, `"inputs" is there twice`},
		"half a surrogate beside a float": {record(`"s":"\ud800","l":2.5`), `2.5 is not a whole number`},
		"a byte order mark":               {"\ufeff" + record(`"l":2.5`), `2.5 is not a whole number`},
		"UTF-16":                          {"\xff\xfe{\x00}\x00", `not UTF-8`},
		"deep nesting":                    {record(`"v":` + strings.Repeat("[", 200) + strings.Repeat("]", 200)), `nested too deeply`},
		"what MLflow refuses":             {`{"dataframe_records":[{"l":null}]}`, ""},
		"what is not JSON":                {`{"dataframe_records":[{"l":2.5`, ""},
		"an LLM body":                     {`{"messages":[],"inputs":{"zz":[1]}}`, ""},
		"nothing":                         {"", ""},
	} {
		got := r.Strict([]byte(c.body))
		switch {
		case got == nil && c.want != "":
			t.Errorf("%s: passes", name)
		case got != nil && (c.want == "" || !strings.Contains(got.Error(), c.want)):
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestStrictJudgesOneColumnWithoutItsName(t *testing.T) {
	r := NewReader(`[{"type":"long","name":"n"}]`, "", false)
	if got := r.Strict([]byte(`{"inputs":[1,2.5]}`)); got == nil || got.Row != 1 || got.Column != "n" {
		t.Errorf("got %v", got)
	}
	if got := r.Strict([]byte(`{"inputs":[1,2],"params":{"p":1}}`)); got == nil || !strings.Contains(got.Error(), "param") {
		t.Errorf("got %v", got)
	}
}

func TestStrictLeavesWhatItDoesNotJudge(t *testing.T) {
	body := []byte(`{"inputs":[[true,2.5]],"instances":{"zz":1}}`)
	for name, r := range map[string]*Reader{
		"no schema":        NewReader("", "", false),
		"type hints":       NewReader(`[{"type":"long","name":"n"}]`, "", true),
		"a tensor":         NewReader(`[{"type":"tensor","tensor-spec":{"dtype":"int64","shape":[-1,2]}}]`, "", false),
		"nameless columns": NewReader(`[{"type":"long"}]`, "", false),
	} {
		if got := r.Strict(body); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
