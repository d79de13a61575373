package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"loadline.dev/loadline/internal/stow"
)

// carried is cmd/agent, compressed, in a binary that was built with it (make
// build does); empty in any other.
var carried []byte

// agentCommandLine is how an agent is started: the small binary, which lies in
// the data folder then, or this very program in the role of it.
func agentCommandLine(data string) ([]string, error) {
	if len(carried) == 0 {
		self, err := os.Executable()
		return []string{self, "agent"}, err
	}
	z, err := gzip.NewReader(bytes.NewReader(carried))
	if err != nil {
		return nil, fmt.Errorf("install agent: %w", err)
	}
	program, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("install agent: %w", err)
	}
	path, err := stow.File(filepath.Join(data, "tools"), "agent", "", program, 0o555)
	return []string{path}, err
}
