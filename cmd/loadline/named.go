package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// named lists the files and folders that a shell command names by absolute
// paths, so that its process may read them: a script of the user's lies
// somewhere. Of a program in a bin folder it is the installation, as a Python
// environment is more than its interpreter. Never the data folder, nor one
// that it lies in.
func named(command, data string) []string {
	var list []string
	for _, word := range strings.FieldsFunc(command, func(r rune) bool { return strings.ContainsRune(" \t\n'\"=;:|&()<>", r) }) {
		path := filepath.Clean(word)
		if !filepath.IsAbs(path) {
			continue
		}
		if dir := filepath.Dir(path); filepath.Base(dir) == "bin" && isFolder(filepath.Join(filepath.Dir(dir), "lib")) {
			path = filepath.Dir(dir)
		}
		if real, err := filepath.EvalSymlinks(path); err == nil && !slices.Contains(list, path) && apart(real, data) && path != "/usr" {
			list = append(list, path)
		}
	}
	return list
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// apart says that neither path lies within the other.
func apart(a, b string) bool {
	if real, err := filepath.EvalSymlinks(b); err == nil {
		b = real
	}
	return !within(a, b) && !within(b, a)
}

func within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
