// Package laws checks the shape of the repository. A rule that only lives in a
// document is broken quietly; here it is broken in review, in the same commit
// as the code that wants it changed.
//
// The tests parse the source themselves rather than asking the go command, so
// that the test cache sees which files they read and never serves a stale pass.
package laws

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "loadline.dev/loadline/"

// pure lists what the deciding half of the program may import from outside
// this module. None of these can reach the clock, the network, or the disk.
var pure = []string{"bytes", "cmp", "encoding/base64", "encoding/binary", "encoding/hex", "encoding/json", "crypto/sha256", "io", "math/bits", "regexp", "unicode", "unicode/utf16", "unicode/utf8", "unsafe", "errors", "fmt", "iter", "maps", "math", "math/rand/v2",
	"slices", "sort", "strconv", "strings", "time"}

// core rooms decide and never act. The value lists the rooms each may use.
var core = map[string][]string{
	"serving":         {},
	"autopilot":       {"serving"},
	"gateway/balance": {"serving"},
	"control/plan":    {"serving"},
}

// kubernetes may be spoken only here.
var kubernetes = []string{"api/", "platform/kube", "cmd/"}

// ambient lists what a core room may not reach for: the terminal, the real clock, the
// global dice. It is handed a time and a *rand.Rand instead, so that the same
// inputs always give the same answer.
var ambient = map[string][]string{
	"fmt":  {"Print", "Printf", "Println"},
	"time": {"Now", "Since", "Until", "Sleep", "After", "Tick", "AfterFunc", "NewTimer", "NewTicker"},
	"rand": {"Int", "IntN", "Int64", "Int64N", "Uint64", "Uint64N", "N", "Float64", "NormFloat64", "ExpFloat64", "Perm", "Shuffle"},
}

func TestCoreDecidesAndDoesNotAct(t *testing.T) {
	for room, friends := range core {
		files := parse(t, room)
		if len(files) == 0 {
			t.Errorf("core names room %q, which has no code; fix the law", room)
		}
		for path, file := range files {
			for _, spec := range file.Imports {
				if spec.Name != nil && ambient[filepath.Base(strings.Trim(spec.Path.Value, `"`))] != nil {
					t.Errorf("%s renames %s: in core it keeps its name, so that this law can see it", path, spec.Path.Value)
				}
			}
			for _, imp := range imports(file) {
				if ours, ok := strings.CutPrefix(imp, module); ok && slices.Contains(friends, ours) {
					continue
				}
				if !slices.Contains(pure, imp) {
					t.Errorf("%s imports %s: %s is core and may not", path, imp, room)
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s starts a goroutine: concurrency belongs to the shell", path)
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && slices.Contains(ambient[x.Name], n.Sel.Name) {
						t.Errorf("%s uses %s.%s: take it as an argument", path, x.Name, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

func TestKubernetesStaysInItsRoom(t *testing.T) {
	for _, room := range rooms(t) {
		if slices.ContainsFunc(kubernetes, func(p string) bool { return strings.HasPrefix(room+"/", p) || room == p }) {
			continue
		}
		for path, file := range parse(t, room) {
			for _, imp := range imports(file) {
				if strings.HasPrefix(imp, "k8s.io/") || strings.HasPrefix(imp, "sigs.k8s.io/") {
					t.Errorf("%s imports %s: only %v may", path, imp, kubernetes)
				}
			}
		}
	}
}

func TestEveryRoomSaysWhatItIsFor(t *testing.T) {
	for _, room := range rooms(t) {
		documented := 0
		for _, file := range parse(t, room) {
			if file.Doc != nil {
				documented++
			}
		}
		if documented != 1 {
			t.Errorf("%s has %d package comments, want exactly one", room, documented)
		}
	}
}

const root = "../.."

// rooms lists every directory that holds code.
func rooms(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") && path != root {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != root {
			return fs.SkipDir // a module of its own keeps its own house
		}
		room, _ := filepath.Rel(root, path)
		if len(parse(t, room)) > 0 {
			found = append(found, filepath.ToSlash(room))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// parse returns the non-test files of a room.
func parse(t *testing.T, room string) map[string]*ast.File {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(root, room, "*.go"))
	files := map[string]*ast.File{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = file
	}
	return files
}

func imports(file *ast.File) []string {
	var list []string
	for _, spec := range file.Imports {
		list = append(list, strings.Trim(spec.Path.Value, `"`))
	}
	return list
}
