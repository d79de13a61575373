package pyenv

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"

	"loadline.dev/loadline/serving"
)

// A pythonEnvFile is MLflow's python_env.yaml.
type pythonEnvFile struct {
	python              string
	build, dependencies []line
}

func readPythonEnv(data []byte) (pythonEnvFile, error) {
	var e pythonEnvFile
	top, err := mapping(data)
	if err != nil {
		return e, err
	}
	for key, value := range top {
		switch key {
		case "python":
			if value.Kind != yaml.ScalarNode {
				return e, at("", value.Line, refusal("python must be a version"))
			}
			e.python = strings.TrimSpace(value.Value)
		case "build_dependencies":
			e.build, err = texts(key, value)
		case "dependencies":
			e.dependencies, err = texts(key, value)
		}
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

// A condaFile is what can be honoured of a conda.yaml.
type condaFile struct {
	python string // empty when it leaves the version open
	pip    []line
}

var (
	condaPythonRE = regexp.MustCompile(`^python(?:\s*={1,2}\s*|\s+)(\d+\.\d+(?:\.\d+)?)(?:\.\*|\*)?(?:=\S*)?$`)
	condaNameRE   = regexp.MustCompile(`^(?:[\w.\-/]+::)?([A-Za-z0-9_.-]+)`)
)

func readConda(data []byte) (condaFile, error) {
	var c condaFile
	top, err := mapping(data)
	if err != nil {
		return c, err
	}
	list, ok := top["dependencies"]
	if !ok {
		return c, nil
	}
	if list.Kind != yaml.SequenceNode {
		return c, refusal("line %d: dependencies must be a list", list.Line)
	}
	var foreign []string
	for _, item := range list.Content {
		switch {
		case item.Kind == yaml.MappingNode && len(item.Content) == 2 && item.Content[0].Value == "pip":
			if c.pip, err = texts("pip", item.Content[1]); err != nil {
				return c, err
			}
		case item.Kind != yaml.ScalarNode:
			return c, refusal("line %d: a dependency must be a text", item.Line)
		default:
			name := condaNameRE.FindStringSubmatch(item.Value)
			if m := condaPythonRE.FindStringSubmatch(item.Value); m != nil {
				c.python = m[1]
			} else if name == nil || name[1] != "python" && name[1] != "pip" {
				foreign = append(foreign, fmt.Sprintf("%s (line %d)", shorten(item.Value, 80), item.Line))
			}
		}
	}
	if len(foreign) > 0 {
		return c, condaOnly(foreign)
	}
	return c, nil
}

// mapping reads a document that must be one flat mapping. It accepts neither
// aliases, which make small files large, nor tags, nor a key twice.
func mapping(data []byte) (map[string]*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, refusal("%w", err)
	}
	if doc.Kind == 0 || len(doc.Content) == 0 {
		return nil, errEmpty
	}
	if err := plain(&doc, 0); err != nil {
		return nil, err
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, refusal("line %d: must be a mapping", top.Line)
	}
	out := map[string]*yaml.Node{}
	for n := 0; n+1 < len(top.Content); n += 2 {
		key := top.Content[n]
		if out[key.Value] != nil {
			return nil, refusal("line %d: %q stands twice", key.Line, shorten(key.Value, 40))
		}
		out[key.Value] = top.Content[n+1]
	}
	return out, nil
}

var errEmpty = refusal("%w", errors.New("the file is empty"))

func plain(n *yaml.Node, depth int) error {
	switch {
	case depth > 10:
		return refusal("line %d: nested too deeply", n.Line)
	case n.Kind == yaml.AliasNode:
		return refusal("line %d: aliases are not allowed", n.Line)
	case strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!"), strings.Contains(n.Tag, "python"):
		return refusal("line %d: the tag %s is not allowed", n.Line, shorten(n.Tag, 40))
	}
	for _, c := range n.Content {
		if err := plain(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func texts(key string, list *yaml.Node) ([]line, error) {
	if list.Kind == yaml.ScalarNode && list.Tag == "!!null" {
		return nil, nil
	}
	if list.Kind != yaml.SequenceNode {
		return nil, refusal("line %d: %s must be a list", list.Line, key)
	}
	var out []line
	for _, item := range list.Content {
		if item.Kind != yaml.ScalarNode {
			return nil, refusal("line %d: an entry of %s must be a text", item.Line, key)
		}
		for _, l := range splitLines([]byte(item.Value)) {
			out = append(out, line{item.Line, l.text})
		}
	}
	return out, nil
}

func condaOnly(foreign []string) error {
	return &serving.Error{Kind: serving.Invalid,
		Err: fmt.Errorf("conda packages cannot be had from the Python package index: %s", strings.Join(foreign, ", ")),
		Fix: "log the model with pip_requirements instead of these conda packages"}
}
