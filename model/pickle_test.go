package model_test

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"loadline.dev/loadline/model"
)

func TestDangerousPicklesAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ pickle, want string }{
		"protocol 0":                {"cos\nsystem\n(S'id'\ntR.", "os.system"},
		"posix":                     {"cposix\nsystem\n(S'id'\ntR.", "posix.system"},
		"INST":                      {"(S'id'\nios\nsystem\n.", "os.system"},
		"protocol 4":                {"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.", "posix.system"},
		"builtins":                  {"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"},
		"a submodule":               {"cos.path\njoin\n.", "os.path.join"},
		"from the memo":             {"\x8c\x02os\x94\x8c\x06system\x94NN00h\x00h\x01\x93.", "os.system"},
		"hidden by a pop":           {"\x8c\x02osN0\x8c\x06system\x93.", "os.system"},
		"hidden by a mark":          {"\x8c\x02os(NNN1\x8c\x06system\x93.", "os.system"},
		"hidden by escapes":         {"V\\u006fs\nV\\u0073ystem\n\x93.", "os.system"},
		"hidden by escapes of text": {"S'\\x6fs'\nS'system'\n\x93.", "os.system"},
		"an attribute's attribute":  {"\x8c\x08builtins\x8c\x09eval.mask\x93.", "builtins.eval.mask"},
		"harmless":                  {"csklearn.linear_model._logistic\nLogisticRegression\n)\x81.", ""},
		"no pickle":                 {"hello world", ""},
		"empty":                     {"", ""},
		"a length that is a lie":    {"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", ""},
		"cut off after the module":  {"cos\n", ""},
		"a name like a dangerous":   {"cosmium\nsystem\n.", ""},
	} {
		if got := strings.Join(model.ScanPickle(strings.NewReader(c.pickle)), " "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// writePickles writes what Python itself writes, in every protocol.
const writePickles = `
import collections, os, pickle, sys
class Evil:
    def __reduce__(self): return os.system, ("id",)
for p in range(6):
    data = [1, 2.5, None, True, "x" * 300, b"y" * 300, 2**100, {1: {2}, "k": (1, 2, 3, 4)}, collections.OrderedDict(a=1),
            frozenset([1]), list(range(3000)), bytearray(b"z"), Evil(), -1, 70000]
    with open(f"{sys.argv[1]}/evil{p}.pkl", "wb") as f: pickle.dump(data, f, protocol=p)
    with open(f"{sys.argv[1]}/good{p}.pkl", "wb") as f: pickle.dump(data[:-3], f, protocol=p)
`

func TestPythonsOwnPicklesAreRead(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if out, err := exec.Command(python, "-c", writePickles, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := model.ScanPickles(t.Context(), dir)
	if err != nil || len(got) != 6 {
		t.Errorf("got %q, %v", got, err)
	}
	for i, w := range got {
		if !strings.HasPrefix(w, "evil"+string(rune('0'+i))+".pkl names posix.system") {
			t.Errorf("got %q", w)
		}
	}
}

func TestAPickleInAZipIsScanned(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("archive/data.pkl")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("cos\nsystem\n.")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "m.pt"), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := model.ScanPickles(t.Context(), dir)
	if err != nil || !slices.Equal(got, []string{"m.pt names os.system, which loading the model may call"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzScanPickle(f *testing.F) {
	f.Add([]byte("cos\nsystem\n(S'id'\ntR."))
	f.Add([]byte("\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94(1e u."))
	f.Fuzz(func(_ *testing.T, data []byte) { model.ScanPickle(bytes.NewReader(data)) })
}
