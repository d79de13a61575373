package mlmodel_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestWhatMLflowWritesIsRead(t *testing.T) {
	m, err := mlmodel.Parse(read(t, "sklearn.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p := m.PyFunc
	if p == nil || p.LoaderModule != "mlflow.sklearn" || p.Data != "model.skops" || p.PythonVersion != "3.11.7" ||
		p.Conda != "conda.yaml" || p.Virtualenv != "python_env.yaml" || p.PredictFn != "predict" || p.Streamable {
		t.Errorf("python_function = %+v", p)
	}
	if m.MLflowVersion != "3.17.2" || m.Created.Year() != 2026 || m.TypeHints || m.ModelID != "" {
		t.Errorf("model = %+v", m)
	}
	if got := m.Flavors["sklearn"].Text("sklearn_version"); got != "1.9.1" {
		t.Errorf("sklearn_version = %q", got)
	}
	if m.Example == nil || m.Example.Serving != "serving_input_example.json" || m.Example.Orient != "split" {
		t.Errorf("example = %+v", m.Example)
	}
	checkSignature(t, m.Signature)
}

func checkSignature(t *testing.T, s *mlmodel.Signature) {
	t.Helper()
	if s == nil || len(s.Inputs.Columns) != 2 || len(s.Outputs.Tensors) != 1 || len(s.Params) != 2 {
		t.Fatalf("signature = %+v", s)
	}
	if c := s.Inputs.Columns[1]; c.Name != "b" || !c.Required || c.Type.Kind != "string" {
		t.Errorf("column = %+v", c)
	}
	if o := s.Outputs.Tensors[0]; o.DType != "float64" || !reflect.DeepEqual(o.Shape, []int64{-1}) {
		t.Errorf("tensor = %+v", o)
	}
	if p := s.Params[0]; p.Name != "t" || string(p.Default) != "0.5" || p.Shape != nil || p.Type.Kind != "double" {
		t.Errorf("param = %+v", p)
	}
	if p := s.Params[1]; string(p.Default) != `["a"]` || len(p.Shape) != 1 {
		t.Errorf("param = %+v", p)
	}
}

func TestTypeHintsAreSeen(t *testing.T) {
	m, err := mlmodel.Parse(read(t, "hints.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c := m.Signature.Inputs.Columns; !m.TypeHints || len(c) != 1 || c[0].Named {
		t.Errorf("type hints %v, columns %+v", m.TypeHints, c)
	}
}

func TestNestedTypesKeepTheirOrder(t *testing.T) {
	text := minimal + `signature:
  inputs: '[{"type":"object","name":"o","required":false,"properties":{"z":{"type":"long","required":true},"a":{"type":"array","items":{"type":"map","values":{"type":"any"}},"required":false}}}]'
`
	m, err := mlmodel.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c := m.Signature.Inputs.Columns[0]
	if c.Required || c.Type.Kind != "object" || len(c.Type.Fields) != 2 || c.Type.Fields[0].Name != "z" {
		t.Fatalf("column = %+v", c)
	}
	if a := c.Type.Fields[1]; a.Type.Items.Kind != "map" || a.Type.Items.Items.Kind != "any" || a.Required {
		t.Errorf("field = %+v", a)
	}
}

func TestVersionsAreNotNumbers(t *testing.T) {
	m, err := mlmodel.Parse([]byte("flavors:\n  python_function:\n    loader_module: x\n    python_version: 3.10\n    env: conda.yaml\n  keras:\n    v: 2.10\n"))
	if err != nil {
		t.Fatal(err)
	}
	if m.PyFunc.PythonVersion != "3.10" || m.Flavors["keras"].Text("v") != "2.10" || m.PyFunc.Conda != "conda.yaml" {
		t.Errorf("%+v, %v", m.PyFunc, m.Flavors)
	}
}

const minimal = "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n"

func TestWindowsLineEndsAreRead(t *testing.T) {
	if _, err := mlmodel.Parse([]byte(strings.ReplaceAll(minimal, "\n", "\r\n"))); err != nil {
		t.Error(err)
	}
}

func TestAFewAliasesAreFollowed(t *testing.T) {
	m, err := mlmodel.Parse([]byte("x: &p mlflow.sklearn\nflavors:\n  python_function:\n    loader_module: *p\n"))
	if err != nil || m.PyFunc.LoaderModule != "mlflow.sklearn" {
		t.Errorf("%+v, %v", m.PyFunc, err)
	}
}

func TestRefusalsNameTheLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":                {"", "line 1: the file is empty"},
		"blank":                {" \n\n", "line 1: the file is empty"},
		"too large":            {strings.Repeat("# x\n", mlmodel.MaxBytes/4+1), "at most"},
		"a list":               {"- a\n- b\n", "line 1: a mapping is needed"},
		"no flavours":          {"a: 1\nb: 2\n", "line 1: flavors is missing"},
		"flavours a list":      {"a: 1\nflavors: [x]\n", "line 2: flavors is missing or not a mapping"},
		"a flavour is text":    {"flavors:\n  sklearn: x\n", `line 2: flavour "sklearn" is not a mapping`},
		"no loader":            {"flavors:\n  python_function:\n    env: x\n", "line 3: python_function has no loader_module"},
		"bomb":                 {bomb(), "values once aliases are followed"},
		"alias to itself":      {"flavors: &a\n  x: *a\n", "line 1: nested more than"},
		"python tag":           {minimal + "x: !!python/object:os.system {}\n", "line 4: tag \"!!python/object:os.system\""},
		"own tag":              {minimal + "x:\n  - !run ls\n", "line 5: tag \"!run\""},
		"tag on a key":         {minimal + "!!python/name:os.system x: 1\n", "line 4: keys must be plain"},
		"tag at the top":       {"!!python/object:a.b\n" + minimal, "tag \"!!python/object:a.b\""},
		"duplicate key":        {minimal + "a: 1\nb: 2\na: 3\n", `line 6: duplicate key "a", first seen on line 4`},
		"merge":                {"a: &a {b: 1}\nflavors:\n  <<: *a\n", "line 3: merge keys"},
		"tab":                  {"flavors:\n\tpython_function:\n", "line 2"},
		"UTF-16":               {"\xff\xfef\x00l\x00", "line 1: not UTF-8"},
		"NUL":                  {minimal + "a: \x00\n", "line 4: not UTF-8"},
		"half a character":     {minimal + "\na: \xc3\n", "line 5: not UTF-8"},
		"two documents":        {minimal + "---\n" + minimal, "not YAML"},
		"deep":                 {"a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), ""},
		"data climbs":          {minimal + "    data: ../../x\n", "line 4: data: \"../../x\": path leaves the model directory"},
		"data absolute":        {minimal + "    data: /etc/passwd\n", "path leaves the model directory"},
		"code climbs":          {minimal + "    code: ../..\n", "line 4: code"},
		"code climbs within":   {minimal + "    code: a/../../..\n", "line 4: code"},
		"data with NUL":        {minimal + `    data: "a\0b"` + "\n", "NUL"},
		"backslash":            {minimal + "    data: a\\..\\b\n", "backslash"},
		"environment climbs":   {minimal + "    env:\n      conda: ../c.yaml\n", "line 5: conda"},
		"artifact climbs":      {minimal + "    artifacts:\n      a:\n        path: /etc\n", "line 6: path"},
		"example climbs":       {minimal + "saved_input_example_info:\n  artifact_path: ../x\n", "line 5: artifact_path"},
		"signature not JSON":   {minimal + "signature:\n  inputs: '[{'\n", "line 5: signature inputs"},
		"unknown column type":  {minimal + "signature:\n  inputs: '[{\"type\":\"cube\"}]'\n", `line 5: signature inputs: item 0: unknown type "cube"`},
		"mixed":                {minimal + "signature:\n  inputs: '[{\"type\":\"long\"},{\"type\":\"tensor\",\"tensor-spec\":{}}]'\n", "mixed"},
		"array of nothing":     {minimal + "signature:\n  inputs: '[{\"type\":\"array\"}]'\n", "array"},
		"parameter, no name":   {minimal + "signature:\n  params: '[{\"type\":\"long\"}]'\n", "line 5: signature params: item 0 has no name"},
		"object of odd things": {minimal + "signature:\n  inputs: '[{\"type\":\"object\",\"properties\":[]}]'\n", "properties must be"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mlmodel.Parse([]byte(c.text))
			if !errors.Is(err, serving.Invalid) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	return b.String() + minimal
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"sklearn.yaml", "hints.yaml"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(bomb()))
	f.Add([]byte(minimal + "signature:\n  inputs: '[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"long\"}}}]'\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := mlmodel.Parse(data)
		if err != nil {
			if !errors.Is(err, serving.Invalid) {
				t.Errorf("%v is not Invalid", err)
			}
			return
		}
		if len(m.Flavors) == 0 && m.PyFunc != nil {
			t.Error("a python_function that is no flavour")
		}
		if p := m.PyFunc; p != nil {
			for _, path := range []string{p.Data, p.Code, p.Conda, p.Virtualenv} {
				if path != "" && !filepath.IsLocal(path) {
					t.Errorf("path %q was let through", path)
				}
			}
		}
	})
}
