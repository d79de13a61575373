package scoring

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const schema = `[{"type":"double","name":"d","required":true},{"type":"float","name":"f","required":true},{"type":"long","name":"l","required":true},
{"type":"integer","name":"i","required":true},{"type":"boolean","name":"b","required":true},{"type":"string","name":"s","required":true},
{"type":"double","name":"o","required":false}]`

const row = `1.5,2,3,4,true,"x"`

func split(data string) string {
	return `{"dataframe_split":{"columns":["d","f","l","i","b","s"],"data":` + data + `}}`
}

func TestOnlyCertainBodiesCrossAsColumns(t *testing.T) {
	r := NewReader(schema, "", false)
	cases := map[string]struct {
		body string
		ok   bool
	}{
		"one row":                         {split("[[" + row + "]]"), true},
		"two rows":                        {split("[[" + row + "],[" + row + "]]"), true},
		"no rows":                         {split("[]"), false},
		"a short row":                     {split(`[[1.5,2,3,4,true]]`), false},
		"a long row":                      {split(`[[` + row + `,1]]`), false},
		"data before columns":             {`{"dataframe_split":{"data":[[` + row + `]],"columns":["d","f","l","i","b","s"]}}`, true},
		"an index":                        {`{"dataframe_split":{"index":[7],"columns":["d","f","l","i","b","s"],"data":[[` + row + `]]}}`, true},
		"an index of another length":      {`{"dataframe_split":{"index":[7,8],"columns":["d","f","l","i","b","s"],"data":[[` + row + `]]}}`, false},
		"an index of texts":               {`{"dataframe_split":{"index":["r"],"columns":["d","f","l","i","b","s"],"data":[[` + row + `]]}}`, false},
		"an unknown member of split":      {`{"dataframe_split":{"x":1,"columns":["d","f","l","i","b","s"],"data":[[` + row + `]]}}`, false},
		"a column twice":                  {`{"dataframe_split":{"columns":["d","f","l","i","b","b"],"data":[[` + row + `]]}}`, false},
		"an unknown column":               {`{"dataframe_split":{"columns":["d","f","l","i","b","s","z"],"data":[[` + row + `,1]]}}`, false},
		"a column missing":                {`{"dataframe_split":{"columns":["d","f","l","i","b"],"data":[[1.5,2,3,4,true]]}}`, false},
		"an optional column":              {`{"dataframe_split":{"columns":["o","d","f","l","i","b","s"],"data":[[null,` + row + `]]}}`, true},
		"records":                         {`{"dataframe_records":[{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"},{"s":"x","d":1,"f":1,"l":1,"i":1,"b":true}]}`, true},
		"records with another key":        {`{"dataframe_records":[{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"},{"d":1,"f":1,"l":1,"i":1,"b":true,"o":1}]}`, false},
		"records with a key twice":        {`{"dataframe_records":[{"d":1,"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"}]}`, false},
		"later records with a key twice":  {`{"dataframe_records":[{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"},{"d":1,"d":1,"l":1,"i":1,"b":true,"s":"x"}]}`, false},
		"an empty record":                 {`{"dataframe_records":[{}]}`, false},
		"records that are an object":      {`{"dataframe_records":{}}`, false},
		"instances by row":                {`{"instances":[{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"}]}`, true},
		"inputs by column":                {`{"inputs":{"d":[1],"f":[1],"l":[1],"i":[1],"b":[true],"s":["x"]}}`, true},
		"inputs of unequal length":        {`{"inputs":{"d":[1,2],"f":[1],"l":[1],"i":[1],"b":[true],"s":["x"]}}`, false},
		"inputs of scalars":               {`{"inputs":{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"}}`, true},
		"inputs of scalars and lists":     {`{"inputs":{"d":1,"f":[1],"l":1,"i":1,"b":true,"s":"x"}}`, false},
		"a bare list for many columns":    {`{"inputs":[1,2]}`, false},
		"two forms":                       {`{"inputs":[1],"instances":[1]}`, false},
		"the same form twice":             {`{"inputs":{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"},"inputs":{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"}}`, false},
		"keys that MLflow drops":          {`{"extra":[{"a":NUL}],"inputs":[]}`, false},
		"an LLM body":                     {`{"messages":[],` + split("[[" + row + "]]")[1:], false},
		"a wish for a stream":             {`{"stream":true,` + split("[[" + row + "]]")[1:], false},
		"params":                          {`{"params":{"a":[1,"x",null,true,2.5],"b":-1},` + split("[[" + row + "]]")[1:], true},
		"params with objects":             {`{"params":{"a":{}},` + split("[[" + row + "]]")[1:], false},
		"params twice":                    {`{"params":{},"params":{},` + split("[[" + row + "]]")[1:], false},
		"a param twice":                   {`{"params":{"a":1,"a":2},` + split("[[" + row + "]]")[1:], false},
		"a whole number in a double":      {split(`[[3,2,3,4,true,"x"]]`), true},
		"null in a double":                {split(`[[null,null,3,4,true,null]]`), true},
		"true in a double":                {split(`[[true,2,3,4,true,"x"]]`), false},
		"text in a double":                {split(`[["1",2,3,4,true,"x"]]`), false},
		"2^53+1 in a double":              {split(`[[9007199254740993,2,3,4,true,"x"]]`), true},
		"2^64 in a double":                {split(`[[18446744073709551616,2,3,4,true,"x"]]`), false},
		"2^53+1 in a float":               {split(`[[1,9007199254740993,3,4,true,"x"]]`), false},
		"1e400 in a double":               {split(`[[1e400,2,3,4,true,"x"]]`), false},
		"1e39 in a float":                 {split(`[[1,1e39,3,4,true,"x"]]`), false},
		"NaN":                             {split(`[[NaN,2,3,4,true,"x"]]`), false},
		"a fraction in a long":            {split(`[[1,2,3.0,4,true,"x"]]`), false},
		"the largest long":                {split(`[[1,2,9223372036854775807,4,true,"x"]]`), true},
		"one more":                        {split(`[[1,2,9223372036854775808,4,true,"x"]]`), false},
		"null in a long":                  {split(`[[1,2,null,4,true,"x"]]`), false},
		"2^31 in an integer":              {split(`[[1,2,3,2147483648,true,"x"]]`), false},
		"the least integer":               {split(`[[1,2,3,-2147483648,true,"x"]]`), true},
		"1 in a boolean":                  {split(`[[1,2,3,4,1,"x"]]`), false},
		"a number in a string":            {split(`[[1,2,3,4,true,1]]`), false},
		"a surrogate pair":                {split(`[[1,2,3,4,true,"\ud83d\ude00"]]`), true},
		"half a surrogate pair":           {split(`[[1,2,3,4,true,"\ud83d"]]`), false},
		"a wrong order of surrogates":     {split(`[[1,2,3,4,true,"\ude00\ud83d"]]`), false},
		"a control character":             {split("[[1,2,3,4,true,\"\x01\"]]"), false},
		"an unknown escape":               {split(`[[1,2,3,4,true,"\x"]]`), false},
		"text that is not UTF-8":          {split("[[1,2,3,4,true,\"\xff\"]]"), false},
		"surrogates in UTF-8":             {split("[[1,2,3,4,true,\"\xed\xa0\x80\"]]"), false},
		"a leading zero":                  {split(`[[01,2,3,4,true,"x"]]`), false},
		"a trailing comma":                {split(`[[` + row + `,]]`), false},
		"trailing text":                   {split("[["+row+"]]") + "x", false},
		"a byte of NUL behind":            {split("[["+row+"]]") + "\x00", false},
		"blanks everywhere":               {" {\n\"inputs\" :\t{ \"d\" : 1 , \"f\":1,\"l\":1,\"i\":1,\"b\":true,\"s\":\"x\"\r\n} } ", true},
		"a byte order mark":               {"\ufeff" + split("[["+row+"]]"), false},
		"nothing":                         {"", false},
		"an empty object":                 {"{}", false},
		"a key that only looks different": {`{"\u0069nputs":{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"x"}}`, true},
		"deep nesting beside":             {`{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `,` + split("[[" + row + "]]")[1:], false},
	}
	for name, c := range cases {
		if _, ok := r.Columns(nil, []byte(c.body)); ok != c.ok {
			t.Errorf("%s: columns is %v: %s", name, ok, c.body)
		}
	}
}

func TestSchemasThatCannotCross(t *testing.T) {
	for name, c := range map[string]struct {
		inputs string
		hints  bool
		want   bool
	}{
		"none":                {"", false, false},
		"empty":               {"[]", false, false},
		"scalars":             {schema, false, true},
		"from type hints":     {schema, true, false},
		"a datetime":          {`[{"type":"datetime","name":"t"}]`, false, false},
		"an array":            {`[{"type":"array","items":{"type":"double"},"name":"t"}]`, false, false},
		"a map":               {`[{"type":{"x":1},"name":"t"}]`, false, false},
		"without names":       {`[{"type":"double"},{"type":"double"}]`, false, false},
		"one without a name":  {`[{"type":"double"}]`, false, false},
		"the same name twice": {`[{"type":"double","name":"a"},{"type":"double","name":"a"}]`, false, false},
		"a tensor":            {`[{"type":"tensor","tensor-spec":{"dtype":"float32","shape":[-1,4]}}]`, false, true},
		"a tensor of text":    {`[{"type":"tensor","tensor-spec":{"dtype":"str","shape":[-1]}}]`, false, false},
		"named tensors":       {`[{"type":"tensor","name":"a","tensor-spec":{"dtype":"int64","shape":[-1]}}]`, false, true},
		"not JSON":            {`[`, false, false},
	} {
		if got := NewReader(c.inputs, "", c.hints).Takes(); got != c.want {
			t.Errorf("%s: takes is %v", name, got)
		}
	}
}

func TestTensorsAreRectangular(t *testing.T) {
	r := NewReader(`[{"type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,2]}}]`, "", false)
	named := NewReader(`[{"type":"tensor","name":"a","tensor-spec":{"dtype":"int32","shape":[-1]}},{"type":"tensor","name":"b","tensor-spec":{"dtype":"int64","shape":[-1,2]}}]`, "", false)
	for body, want := range map[string]bool{
		`{"inputs":[[1,2],[3,4.5]]}`: true, `{"instances":[[1,2]]}`: true, `{"inputs":[1,2]}`: true, `{"inputs":[[1,2],[3]]}`: false, `{"inputs":[]}`: false,
		`{"inputs":[[]]}`: false, `{"inputs":[[1],2]}`: false, `{"inputs":[1,[2]]}`: false, `{"inputs":[[1,[2]]]}`: false, `{"inputs":[[null,1]]}`: false,
		`{"inputs":[[true,1]]}`: false, `{"inputs":5}`: false, `{"inputs":{"a":[1]}}`: false, `{"dataframe_split":{"columns":["a"],"data":[[1]]}}`: false,
		`{"inputs":[[[1,2]],[[3,4]]]}`: true, `{"inputs":[[[1,2]],[3,4]]}`: false,
	} {
		if _, ok := r.Columns(nil, []byte(body)); ok != want {
			t.Errorf("%s: columns is %v", body, ok)
		}
	}
	for body, want := range map[string]bool{
		`{"inputs":{"a":[1,2],"b":[[1,2]]}}`: true, `{"instances":{"a":[1,2],"b":[[1,2]]}}`: false, `{"instances":{"b":[[1,2]],"a":[1]}}`: true,
		`{"inputs":{"a":[1]}}`: false, `{"inputs":{"a":[1],"b":[[1,2]],"c":[1]}}`: false, `{"inputs":{"a":[2147483648],"b":[[1,2]]}}`: false, `{"inputs":[[1,2]]}`: false,
	} {
		if _, ok := named.Columns(nil, []byte(body)); ok != want {
			t.Errorf("%s: columns is %v", body, ok)
		}
	}
}

// The layout is a contract with columns.py, so it is pinned byte for byte.
func TestLayoutOfColumns(t *testing.T) {
	r := NewReader(`[{"type":"long","name":"n"},{"type":"string","name":"t"}]`, "", false)
	got, ok := r.Columns([]byte("head"), []byte(`{"inputs":{"n":[1,-2],"t":["é",null]},"params":{"p":true}}`))
	want := "head" + "\x0a\x00\x00\x00" + "\x02\x00" + "q\x01\x00n" + "s\x01\x00t" + "\x02\x00\x00\x00" + "\x06\x00\x00\x00" + "\x01\x00\x01\x00pt" +
		"\x00\x00\x00\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff\xff\xff\xff\xff" + "\x02\x00\x00\x00\xff\xff\xff\xffé"
	if !ok || string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestTablesPrintAsPythonDoes(t *testing.T) {
	u32 := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, x)
		}
		return b
	}
	table := func(parts ...any) (b []byte) {
		for _, p := range parts {
			switch p := p.(type) {
			case string:
				b = append(b, p...)
			case []byte:
				b = append(b, p...)
			case float64:
				b = binary.LittleEndian.AppendUint64(b, math.Float64bits(p))
			}
		}
		return b
	}
	minus := func(n int32) uint32 { return uint32(n) }
	for name, c := range map[string]struct {
		table []byte
		want  string
	}{
		"floats":     {table("\x01", u32(3, 1), "d", 1.0, math.NaN(), 1e16), `{"predictions": [1.0, NaN, 1e+16]}`},
		"a matrix":   {table("\x02", u32(2, 2), "i", u32(1, 2, minus(-3), 4)), `{"predictions": [[1, 2], [-3, 4]]}`},
		"no columns": {table("\x02", u32(2, 0), "d"), `{"predictions": [[], []]}`},
		"no rows":    {table("\x02", u32(0, 3), "d"), `{"predictions": []}`},
		"float32":    {table("\x01", u32(1, 1), "f", u32(math.Float32bits(0.1))), `{"predictions": [0.10000000149011612]}`},
		"records": {table("\x03", u32(2, 2), u32(1), "a", "?\x01\x00", u32(2), "é", "s", u32(3, minus(-1)), "x\"\n"),
			`{"predictions": [{"a": true, "\u00e9": "x\"\n"}, {"a": false, "\u00e9": NaN}]}`},
		"null":  {table("\x01", u32(1, 1), "s", u32(minus(-2))), `{"predictions": [null]}`},
		"small": {table("\x01", u32(2, 1), "b\x80\x7f"), `{"predictions": [-128, 127]}`},
		"emoji": {table("\x01", u32(1, 1), "s", u32(5), "😀\x7f"), `{"predictions": ["\ud83d\ude00\u007f"]}`},
	} {
		got, err := AppendTable(nil, c.table)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %s %v, want %s", name, got, err, c.want)
		}
		if whole, err := ReadTable(c.table); err != nil || takenApart(whole) != c.want {
			t.Errorf("%s: row by row it is another (%v)", name, err)
		}
		for i := range c.table {
			if _, err := AppendTable(nil, c.table[:i]); err == nil {
				t.Errorf("%s: cut after %d bytes it passes", name, i)
			}
		}
		if _, err := AppendTable(nil, append(bytes.Clone(c.table), 0)); err == nil {
			t.Errorf("%s: it passes with a byte too many", name)
		}
	}
}

func TestFloatsPrintAsPythonsRepr(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0.0", math.Copysign(0, -1): "-0.0", 1: "1.0", 0.1: "0.1", 1e15: "1000000000000000.0", 9999999999999998: "9999999999999998.0", 1e16: "1e+16", 1e20: "1e+20",
		1.5e300: "1.5e+300", 5e-324: "5e-324", 0.0001: "0.0001", 0.00001: "1e-05", 0.00012345: "0.00012345", -123456.789: "-123456.789",
		math.MaxFloat64: "1.7976931348623157e+308", math.Inf(1): "Infinity", math.Inf(-1): "-Infinity", 123456789012345678: "1.2345678901234568e+17",
	} {
		if got := string(appendFloat(nil, f)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := string(appendFloat(nil, math.NaN())); got != "NaN" {
		t.Errorf("got %s", got)
	}
}

// A million of them were compared once; this many keep it so.
func TestRandomFloatsPrintAsPythonsRepr(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs python3")
		}
		t.Skip("needs python3 on PATH")
	}
	count := 20_000
	if os.Getenv("LOADLINE_TEST_FULL") == "1" {
		count = 1_000_000
	}
	dice := rand.New(rand.NewPCG(1, 2))
	var bits, want bytes.Buffer
	for i := range count {
		f := math.Float64frombits(dice.Uint64())
		switch i % 4 {
		case 1:
			f = dice.NormFloat64()
		case 2:
			f = math.Round(dice.NormFloat64()*1e6) * math.Pow(10, float64(dice.IntN(40)-20))
		case 3:
			f = float64(float32(dice.NormFloat64() * 1e3))
		}
		_ = binary.Write(&bits, binary.LittleEndian, f)
		want.Write(append(appendFloat(nil, f), '\n'))
	}
	cmd := exec.Command(python, "-c", `
import json, struct, sys
data = sys.stdin.buffer.read()
sys.stdout.write("".join(json.dumps(f) + "\n" for f, in struct.iter_unpack("<d", data)))`)
	cmd.Stdin = &bits
	got, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		a, b := strings.Split(string(got), "\n"), strings.Split(want.String(), "\n")
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("python prints %s, we %s", a[i], b[i])
			}
		}
	}
}

// Whatever comes, nothing panics, and what crosses is JSON that a standard
// parser takes as well.
func FuzzColumns(f *testing.F) {
	for _, body := range []string{split("[[" + row + "]]"), `{"instances":[{"d":1,"f":1,"l":1,"i":1,"b":true,"s":"\u00e9\ud83d\ude00"}]}`,
		`{"inputs":{"d":[1],"f":[1],"l":[1],"i":[1],"b":[true],"s":["x"]},"params":{"a":[1,"x"]}}`, `{"inputs":[[1,2],[3,4]]}`, `{"inputs":{"d":-0,"f":1e5}}`} {
		f.Add([]byte(body))
	}
	readers := []*Reader{NewReader(schema, "", false), NewReader(`[{"type":"string","name":"s"}]`, `[{"name":"a"}]`, false),
		NewReader(`[{"type":"tensor","tensor-spec":{"dtype":"float32","shape":[-1,2]}}]`, "", false),
		NewReader(`[{"type":"datetime","name":"d"},{"type":"binary","name":"s"},{"type":"long","name":"l"}]`, "", false)}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, r := range readers {
			out, ok := r.Columns(nil, body)
			if ok && !json.Valid(body) {
				t.Errorf("crossed and is not JSON: %q", body)
			}
			if len(out) > 64*len(body)+1024 {
				t.Errorf("%d bytes became %d", len(body), len(out))
			}
			r.Strict(body)
		}
	})
}

// bare are the words of Python's that JSON has not; they may stand in a text too.
var bare = regexp.MustCompile(`-?\b(NaN|Infinity)\b`)

func FuzzTable(f *testing.F) {
	f.Add([]byte("\x01\x01\x00\x00\x00\x01\x00\x00\x00d\x00\x00\x00\x00\x00\x00\xf0?"))
	f.Add([]byte("\x03\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00as\x01\x00\x00\x00x"))
	f.Fuzz(func(t *testing.T, table []byte) {
		out, err := AppendTable(nil, table)
		if err == nil && !json.Valid(bare.ReplaceAll(out, []byte("0"))) {
			t.Errorf("printed %q", out)
		}
	})
}
