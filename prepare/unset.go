package prepare

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"loadline.dev/loadline/serving"
)

// variablesFile is where MLflow notes which environment variables a model read
// when it was logged.
const variablesFile = "environment_variables.txt"

var variableRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// unset lists the variables that the model in dir was logged with and that
// vars do not hold. It may do without them, so this is for telling only.
func unset(dir string, vars map[string]string) []string {
	if dir == "" {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil
	}
	defer root.Close()
	f, err := root.Open(variablesFile)
	if err != nil {
		return nil
	}
	defer f.Close()
	var names []string
	for lines := bufio.NewScanner(io.LimitReader(f, 64<<10)); lines.Scan(); {
		name := strings.TrimSpace(lines.Text())
		if _, set := vars[name]; !set && variableRE.MatchString(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// unsetNote tells of names; it is empty when there are none.
func unsetNote(names []string) string {
	const most = 10
	switch n := len(names); {
	case n == 0:
		return ""
	case n > most:
		return fmt.Sprintf("not set of the variables it was logged with: %s, and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return "not set of the variables it was logged with: " + strings.Join(names, ", ")
}

// forWantOf adds to a failed proof the variables that were not set. Where the
// failure names one of them, setting it is what helps.
func forWantOf(names []string, err error) error {
	if err == nil || len(names) == 0 || serving.KindOf(err) != serving.Invalid {
		return err
	}
	fix := serving.FixOf(err)
	for _, name := range names {
		if regexp.MustCompile(`\b` + name + `\b`).MatchString(err.Error()) {
			fix = fmt.Sprintf("deploy again with --env %s=… (environment_vars in the API)", name)
			break
		}
	}
	return &serving.Error{Kind: serving.Invalid, Err: fmt.Errorf("%w; %s", err, unsetNote(names)), Fix: fix}
}
