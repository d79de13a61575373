package laws

import (
	"flag"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
)

// pure lists what the deciding half of the program may import from outside
// this module. None of these reaches the clock, the network or the disk.
var pure = []string{"bytes", "cmp", "crypto/sha256", "encoding/base64", "encoding/binary", "encoding/hex",
	"encoding/json", "errors", "fmt", "io", "iter", "maps", "math", "math/big", "math/bits", "math/rand/v2", "regexp",
	"slices", "sort", "strconv", "strings", "sync/atomic", "time", "unicode", "unicode/utf16", "unicode/utf8", "unsafe"}

// core rooms decide and never act. The value lists what each may use beyond
// pure: rooms of ours, and for mlmodel the YAML library.
var core = map[string][]string{
	"serving":         {},
	"autopilot":       {"serving"},
	"control/plan":    {"serving"},
	"gateway/route":   {"serving"},
	"gateway/balance": {"serving"},
	"gateway/limit":   {},
	"gateway/http1":   {},
	"engine":          {"serving", "model/mlmodel"},
	"auth":            {"serving"},
	"model/mlmodel":   {"serving", "go.yaml.in/yaml/v4"},
	"scoring":         {"serving", "model/mlmodel"},
	"internal/queue":  {"serving"},
}

// homes lists the shell rooms that a shell room may import besides the core:
// where the interface it implements lives, and nothing else.
var homes = map[string][]string{
	"model/registry":        {"model"},
	"model/bucket":          {"model"},
	"model/dir":             {"model"},
	"simulate":              {"simulate/trace"},
	"gateway":               {"link"},
	"gateway/feed":          {},
	"agent":                 {"link"},
	"agent/pyworker":        {"agent", "link", "worker"},
	"agent/upstream":        {"agent", "link"},
	"agent/native":          {"agent", "link"},
	"platform/local":        {"control"},
	"platform/fake":         {"control"},
	"platform/platformtest": {"control"},
	"platform/storetest":    {"control"},
}

// edges wire everything and are nobody's business.
var edges = []string{"cmd/", "test/", "bench/", "internal/"}

// kubernetes may be spoken only here.
var kubernetes = []string{"api/", "platform/kube", "cmd/"}

// ambient lists what a core room may not reach for: the terminal, the real
// clock, the global dice. It is handed a time and a *rand.Rand instead.
var ambient = map[string][]string{
	"fmt":  {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	"time": {"Now", "Since", "Until", "Sleep", "After", "Tick", "AfterFunc", "NewTimer", "NewTicker"},
	"rand": {"Int", "IntN", "Int64", "Int64N", "Uint64", "Uint64N", "Uint32", "N", "Float64", "Float32", "NormFloat64", "ExpFloat64", "Perm", "Shuffle"},
}

func TestCoreDecidesAndDoesNotAct(t *testing.T) {
	all := rooms(t)
	for room, friends := range core {
		for _, file := range all[room] {
			checkCoreImports(t, room, file, friends)
			ast.Inspect(file.tree, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s:%d starts a goroutine: concurrency belongs to the shell", file.path, file.line(n.Pos()))
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && slices.Contains(ambient[x.Name], n.Sel.Name) {
						t.Errorf("%s:%d uses %s.%s: take it as an argument", file.path, file.line(n.Pos()), x.Name, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

func checkCoreImports(t *testing.T, room string, file source, friends []string) {
	t.Helper()
	for _, spec := range file.tree.Imports {
		if spec.Name != nil && ambient[path.Base(strings.Trim(spec.Path.Value, `"`))] != nil {
			t.Errorf("%s renames %s: in core it keeps its name, so that this law can see it", file.path, spec.Path.Value)
		}
	}
	for _, imp := range file.imports() {
		if ours, ok := strings.CutPrefix(imp, module); ok && slices.Contains(friends, ours) {
			continue
		}
		if !slices.Contains(pure, imp) && !slices.Contains(friends, imp) {
			t.Errorf("%s imports %s: %s is core and may not", file.path, imp, room)
		}
	}
}

func TestSiblingShellsDoNotKnowEachOther(t *testing.T) {
	for room, files := range rooms(t) {
		if _, isCore := core[room]; isCore || within(room, edges) {
			continue
		}
		for _, file := range files {
			for _, imp := range file.imports() {
				ours, ok := strings.CutPrefix(imp, module)
				if !ok || strings.HasPrefix(ours, "internal/") || slices.Contains(homes[room], ours) {
					continue
				}
				if _, isCore := core[ours]; !isCore {
					t.Errorf("%s imports %s: %s may not know it; declare an interface and let cmd wire it", file.path, ours, room)
				}
			}
		}
	}
}

func TestKubernetesStaysInItsRoom(t *testing.T) {
	for room, files := range rooms(t) {
		if within(room, kubernetes) {
			continue
		}
		for _, file := range files {
			for _, imp := range file.imports() {
				if strings.HasPrefix(imp, "k8s.io/") || strings.HasPrefix(imp, "sigs.k8s.io/") {
					t.Errorf("%s imports %s: only %v may", file.path, imp, kubernetes)
				}
			}
		}
	}
}

func TestEveryRoomSaysWhatItIsFor(t *testing.T) {
	for room, files := range rooms(t) {
		documented := 0
		for _, file := range files {
			if file.tree.Doc != nil {
				documented++
			}
		}
		if documented != 1 {
			t.Errorf("%s has %d package comments, want exactly one", room, documented)
		}
	}
}

func TestRoomsAreNamedForWhatTheyHold(t *testing.T) {
	for room := range rooms(t) {
		for _, part := range strings.Split(room, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helpers", "types", "constants", "base", "misc", "shared", "pkg"}, part) {
				t.Errorf("room %s is called %s, which says nothing", room, part)
			}
		}
		if strings.Count(room, "/") > 1 {
			t.Errorf("room %s lies deeper than two folders", room)
		}
	}
}

// Bounds past which a file or a function holds more than a reader can.
const (
	fileLines = 600
	funcLines = 80
)

func TestFilesAndFunctionsFitTheEye(t *testing.T) {
	for _, files := range rooms(t) {
		for _, file := range files {
			if ast.IsGenerated(file.tree) {
				continue
			}
			if n := strings.Count(string(file.text), "\n"); n > fileLines {
				t.Errorf("%s has %d lines, more than %d: find the missing noun", file.path, n, fileLines)
			}
			for _, d := range file.tree.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Body == nil {
					continue
				}
				n := file.line(fn.End()) - file.line(fn.Pos()) + 1
				if n > funcLines && !strings.Contains(fn.Doc.Text()+docOf(fn), "laws:long ") {
					t.Errorf("%s: %s has %d lines, more than %d; split it, or say why not in a //laws:long line", file.path, fn.Name.Name, n, funcLines)
				}
			}
		}
	}
}

// docOf returns a function's comment with its directives, which Text leaves out.
func docOf(fn *ast.FuncDecl) string {
	if fn.Doc == nil {
		return ""
	}
	var b strings.Builder
	for _, c := range fn.Doc.List {
		b.WriteString(c.Text + "\n")
	}
	return b.String()
}

var rewrite = flag.Bool("rewrite", false, "accept the agent's dependency list as it is")

// The agent runs beside every model, so what it is made of is reviewed: the
// list is a file, and growing it shows in a diff.
func TestAgentDependenciesAreTheListedOnes(t *testing.T) {
	all := rooms(t)
	seen := map[string]bool{}
	var visit func(room string)
	visit = func(room string) {
		if seen[module+room] {
			return
		}
		seen[module+room] = true
		for _, file := range all[room] {
			for _, imp := range file.imports() {
				if ours, ok := strings.CutPrefix(imp, module); ok {
					visit(ours)
				} else if strings.Contains(strings.Split(imp, "/")[0], ".") {
					seen[imp] = true
				}
			}
		}
	}
	for _, room := range []string{"agent", "agent/pyworker", "agent/upstream"} {
		visit(room)
	}
	got := make([]string, 0, len(seen))
	for imp := range seen {
		got = append(got, imp)
	}
	sort.Strings(got)
	list := strings.Join(got, "\n") + "\n"
	file := filepath.Join("testdata", "agent.deps")
	if *rewrite {
		if err := os.WriteFile(file, []byte(list), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if list != string(want) {
		t.Errorf("the agent's dependencies changed; if that is meant, run go test ./internal/laws -rewrite and commit the diff\ngot:\n%swant:\n%s", list, want)
	}
}

func within(room string, places []string) bool {
	return slices.ContainsFunc(places, func(p string) bool { return strings.HasPrefix(room+"/", p) || room == p })
}
