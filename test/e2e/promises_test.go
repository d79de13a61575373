package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A promise names the test that holds it; that test must be there.
func TestPromisesNameTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../../docs/compat.md")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, pattern := range []string{"../../*/*_test.go", "../../*/*/*_test.go"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
	}
	named := regexp.MustCompile("`(Test[A-Za-z]+)[/`]").FindAllStringSubmatch(string(page), -1)
	if len(named) < 25 {
		t.Errorf("only %d tests are named; is the page read?", len(named))
	}
	for _, m := range named {
		if !strings.Contains(source.String(), "func "+m[1]+"(") {
			t.Errorf("docs/compat.md names %s, and there is no such test", m[1])
		}
	}
}
