package laws

import (
	"slices"
	"strings"
	"testing"
)

// carried is what the agent's binary may be built of besides the standard
// library: there is one such process per replica, and what a library sets up
// at its start is paid for in each.
var carried = []string{"github.com/landlock-lsm/go-landlock/", "golang.org/x/sys/unix", "github.com/ebitengine/purego"}

// tooLarge are packages of the standard library that would more than double it.
var tooLarge = []string{"net/http", "crypto/tls", "encoding/gob", "html/template", "text/template", "database/sql"}

func TestTheAgentStaysSmall(t *testing.T) {
	all := rooms(t)
	todo, seen := []string{"cmd/agent"}, map[string]bool{}
	for len(todo) > 0 {
		room := todo[0]
		todo = todo[1:]
		if seen[room] {
			continue
		}
		seen[room] = true
		if len(all[room]) == 0 {
			t.Errorf("the agent is built of %s, which this test does not see", room)
		}
		for _, file := range all[room] {
			for _, imp := range file.imports() {
				ours, is := strings.CutPrefix(imp, module)
				outside := strings.Contains(strings.Split(imp, "/")[0], ".")
				switch {
				case is:
					todo = append(todo, ours)
				case outside && !slices.ContainsFunc(carried, func(allowed string) bool { return strings.HasPrefix(imp, allowed) }):
					t.Errorf("%s imports %s, which is not for the agent", file.path, imp)
				case slices.Contains(tooLarge, imp):
					t.Errorf("%s imports %s, which is too large for the agent", file.path, imp)
				}
			}
		}
	}
	if len(seen) < 8 {
		t.Errorf("the agent is built of %d rooms only: this test looks in the wrong place", len(seen))
	}
}
