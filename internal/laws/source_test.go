package laws

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	root   = "../.."
	module = "loadline.dev/loadline/"
)

// A source is one Go file of the house.
type source struct {
	path string // from the root, with slashes
	fset *token.FileSet
	tree *ast.File
	text []byte
}

func (s source) imports() []string {
	var list []string
	for _, spec := range s.tree.Imports {
		list = append(list, strings.Trim(spec.Path.Value, `"`))
	}
	return list
}

// line tells where in the file pos is.
func (s source) line(pos token.Pos) int { return s.fset.Position(pos).Line }

// house maps each room, as a path from the root, to its files that are not
// tests. It is read once; the go command sees which files were opened, so a
// cached pass is never stale.
var house = sync.OnceValues(func() (map[string][]source, error) {
	rooms := map[string][]source{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skip(path, d.Name())
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		tree, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		room := filepath.ToSlash(filepath.Dir(rel))
		rooms[room] = append(rooms[room], source{filepath.ToSlash(rel), fset, tree, text})
		return nil
	})
	return rooms, err
})

// skip keeps the walk out of what is not ours to judge: folders with a module
// of their own, what npm brings, and dot folders.
func skip(path, name string) error {
	if path == root {
		return nil
	}
	if name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func rooms(t *testing.T) map[string][]source {
	t.Helper()
	found, err := house()
	if err != nil {
		t.Fatal(err)
	}
	return found
}
