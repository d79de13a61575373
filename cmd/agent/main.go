// Command agent runs one replica: what `loadline agent` does, in a binary of
// its own. There is one such process per replica, and of the big binary each
// would touch some 12 MB and spend some 10 ms of processor time before it did
// anything. It is carried inside the big one; nobody installs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"loadline.dev/loadline/cmd/replica"
	"loadline.dev/loadline/internal/sandbox"
)

func main() {
	sandbox.Main() // does not return when this process is a launcher of outsiders' code
	dir := flag.String("dir", "", "the replica's folder")
	owner := flag.Int("owner", 0, "process to end with")
	flag.Parse()
	if flag.NArg() > 0 || !filepath.IsAbs(*dir) {
		fmt.Fprintln(os.Stderr, "agent: --dir must be absolute, and nothing else is taken")
		os.Exit(2)
	}
	if err := replica.Run(context.Background(), replica.Options{Dir: *dir, Owner: *owner, Log: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}
