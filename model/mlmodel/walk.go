package mlmodel

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

const (
	// maxNodes bounds the values of a file after its aliases are followed, so
	// that nine lines of aliases cannot become a billion values.
	maxNodes = 100_000

	// maxDepth bounds nesting; real files stay below 20.
	maxDepth = 100
)

// A table is a mapping whose keys remember their lines.
type table struct {
	line   int
	values map[string]any // scalar, []any, table
	lines  map[string]int
}

// text is the scalar under key as it reads in the file's own words where they
// matter: versions such as 3.10 must not turn into the number 3.1.
func (t table) text(key string) string {
	switch v := t.values[key].(type) {
	case scalar:
		if v.value == nil {
			return ""
		}
		return v.text
	default:
		return ""
	}
}

// path is the scalar under key as a path inside the model's folder.
func (t table) path(key string) (string, error) {
	s := t.text(key)
	if why := CheckPath(s); s != "" && why != "" {
		return "", fmt.Errorf("line %d: %s: %.200q: path leaves the model directory (%s)", t.lines[key], key, s, why)
	}
	return s, nil
}

// plain turns a table into values without lines.
func (t table) plain() map[string]any {
	out := make(map[string]any, len(t.values))
	for k, v := range t.values {
		out[k] = plain(v)
	}
	return out
}

func plain(v any) any {
	switch v := v.(type) {
	case table:
		return v.plain()
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	case scalar:
		return v.value
	}
	return v
}

// CheckPath says why a path written in a model may not be followed, or "". It
// must be relative, in forward slashes, and never climb.
func CheckPath(s string) string {
	switch {
	case s == "":
		return "it is empty"
	case strings.HasPrefix(s, "/"):
		return "it is absolute"
	case strings.ContainsRune(s, 0):
		return "it holds a NUL byte"
	case strings.Contains(s, `\`):
		return "it holds a backslash"
	case len(s) > 1 && s[1] == ':':
		return "it names a drive"
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == ".." {
			return "it climbs with .."
		}
	}
	return ""
}

// A scalar keeps the text beside the value it stands for.
type scalar struct {
	text  string
	value any // string, int64, bool or nil
}

// A walker turns nodes into values, within its budget.
type walker struct {
	budget int
	depth  int
}

func (w *walker) value(n *yaml.Node) (any, error) {
	w.budget--
	w.depth++
	defer func() { w.depth-- }()
	switch {
	case w.budget < 0:
		return nil, fmt.Errorf("line %d: more than %d values once aliases are followed", n.Line, maxNodes)
	case w.depth > maxDepth:
		return nil, fmt.Errorf("line %d: nested more than %d levels deep", n.Line, maxDepth)
	case n.Style&yaml.TaggedStyle != 0:
		return nil, fmt.Errorf("line %d: tag %.80q: tags are refused, they may name code to run", n.Line, n.Tag)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return w.mapping(n)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := w.value(c)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.AliasNode:
		// A cycle runs into the depth bound.
		return w.value(n.Alias)
	case yaml.ScalarNode:
		return readScalar(n), nil
	}
	return nil, fmt.Errorf("line %d: unexpected content", n.Line)
}

func (w *walker) mapping(n *yaml.Node) (table, error) {
	t := table{line: n.Line, values: map[string]any{}, lines: map[string]int{}}
	if n.Style&yaml.TaggedStyle != 0 {
		return t, fmt.Errorf("line %d: tag %.80q: tags are refused, they may name code to run", n.Line, n.Tag)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || k.Style&yaml.TaggedStyle != 0:
			return t, fmt.Errorf("line %d: keys must be plain text", k.Line)
		case k.Value == "<<" && k.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0:
			return t, fmt.Errorf("line %d: merge keys (<<) are refused", k.Line)
		case t.lines[k.Value] != 0:
			return t, fmt.Errorf("line %d: duplicate key %.80q, first seen on line %d", k.Line, k.Value, t.lines[k.Value])
		}
		val, err := w.value(v)
		if err != nil {
			return t, err
		}
		t.values[k.Value], t.lines[k.Value] = val, max(k.Line, 1)
	}
	return t, nil
}

// readScalar reads a scalar by the core schema; anything else is a string.
func readScalar(n *yaml.Node) scalar {
	s := scalar{text: n.Value, value: n.Value}
	switch n.ShortTag() {
	case "!!null":
		s.value = nil
	case "!!bool":
		s.value = strings.EqualFold(n.Value, "true")
		s.text = strconv.FormatBool(strings.EqualFold(n.Value, "true"))
	case "!!int":
		if i, err := strconv.ParseInt(n.Value, 0, 64); err == nil {
			s.value = i
		}
	}
	return s
}
