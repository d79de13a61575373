package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
)

const defaultHost = "http://127.0.0.1:1876"

// settings are what flags, the environment and two files say, in that order of
// weight. A value that nobody gave is empty.
type settings struct {
	values map[string]string
	from   map[string]string // where each value came from, for messages
}

// A key is a setting: its name in files and as a flag, and its kind.
type key struct {
	name string
	kind string // text, bool, port, duration, bytes
}

// keys are all settings that there are. The environment's name is LOADLINE_
// and the key in capitals.
var keys = []key{
	{"host", "text"}, {"token", "text"}, {"data", "text"}, {"output", "text"},
	{"listen", "text"}, {"sandbox", "text"}, {"insecure-http", "bool"}, {"uv", "text"},
	{"tls-cert", "text"}, {"tls-key", "text"}, {"ca", "text"},
	{"engine", "text"}, {"port", "port"}, {"link", "text"},
	{"server", "text"}, {"link-listen", "text"},
	{"start-timeout", "duration"}, {"request-timeout", "duration"}, {"memory", "bytes"},
}

// notSetting marks a flag that only has the name of a setting.
const notSetting = "not a setting"

func keyOf(name string) (key, bool) {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 {
		return key{}, false
	}
	return keys[i], true
}

func (s settings) text(name string) string { return s.values[name] }

func (s settings) yes(name string) bool { return s.values[name] == "true" }

// readSettings weighs flag > environment > ./loadline.yaml > the user's file.
func readSettings(flags *pflag.FlagSet, env func(string) string) (settings, error) {
	s := settings{map[string]string{}, map[string]string{}}
	for _, path := range settingsFiles(env) {
		if err := s.file(path); err != nil {
			return s, err
		}
	}
	for _, k := range keys {
		name := "LOADLINE_" + strings.ToUpper(strings.ReplaceAll(k.name, "-", "_"))
		if v := env(name); v != "" {
			if err := s.put(k, v, name); err != nil {
				return s, err
			}
		}
	}
	for _, k := range keys {
		if f := flags.Lookup(k.name); f != nil && f.Changed && f.Annotations[notSetting] == nil {
			if err := s.put(k, f.Value.String(), "--"+k.name); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// settingsFiles lists the files that may be there, the weaker first.
func settingsFiles(env func(string) string) []string {
	var files []string
	if base := env("XDG_CONFIG_HOME"); filepath.IsAbs(base) {
		files = append(files, filepath.Join(base, "loadline", "config.yaml"))
	} else if home := env("HOME"); filepath.IsAbs(home) {
		files = append(files, filepath.Join(home, ".config", "loadline", "config.yaml"))
	}
	return append(files, "loadline.yaml")
}

// file reads one file of settings; a missing one says nothing.
func (s settings) file(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return usage("settings: %v", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return usage("settings: %s", placed(path, err))
	}
	if len(doc.Content) == 0 {
		return nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return usage("settings: %s:%d:%d: want lines of key: value", path, top.Line, top.Column)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		k, v := top.Content[i], top.Content[i+1]
		at := fmt.Sprintf("%s:%d:%d", path, k.Line, k.Column)
		known, ok := keyOf(k.Value)
		switch {
		case !ok:
			return usage("settings: %s: unknown key %q%s", at, k.Value, nearestKey(k.Value))
		case seen[k.Value]:
			return usage("settings: %s: key %q is there twice", at, k.Value)
		case v.Kind != yaml.ScalarNode:
			return usage("settings: %s:%d:%d: %s must be a single value", path, v.Line, v.Column, k.Value)
		}
		seen[k.Value] = true
		if err := s.put(known, v.Value, fmt.Sprintf("%s:%d:%d", path, v.Line, v.Column)); err != nil {
			return err
		}
	}
	return nil
}

var lineRE = regexp.MustCompile(`line (\d+)(?:, column (\d+))?: `)

// placed says where in a file its YAML breaks, in the form that editors know.
func placed(path string, err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := lineRE.FindStringSubmatch(text)
	if at == nil {
		return path + ": " + text
	}
	return fmt.Sprintf("%s:%s:%s: %s", path, at[1], cmp.Or(at[2], "1"), strings.Replace(text, at[0], "", 1))
}

func (s settings) put(k key, value, from string) error {
	var err error
	switch k.kind {
	case "bool":
		var b bool
		if b, err = strconv.ParseBool(value); err == nil {
			value = strconv.FormatBool(b)
		}
	case "port":
		if n, bad := strconv.Atoi(value); bad != nil || n < 0 || n > 65535 {
			err = errors.New("it is not a port")
		}
	case "duration":
		_, err = positive(value)
	case "bytes":
		_, err = bytesOf(value)
	}
	if err != nil {
		return usage("settings: %s: %s is %q, which is not a %s", from, k.name, value, map[string]string{
			"bool": "yes or no (true, false)", "port": "port (0 to 65535)",
			"duration": "duration (90s, 5m)", "bytes": "size (1500M, 2G)"}[k.kind])
	}
	s.values[k.name], s.from[k.name] = value, from
	return nil
}

func nearestKey(word string) string {
	best, distance := "", len(word)/2+2
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
		if d := distanceOf(word, k.name); d < distance {
			best, distance = k.name, d
		}
	}
	if best == "" {
		return "; known are " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distanceOf is how many letters to change, add or leave out.
func distanceOf(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
