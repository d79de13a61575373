// Command loadline serves models: for people at a shell, and in every role that
// a server needs. It wires the rooms together and has no rules of its own.
package main

import (
	"os"

	"loadline.dev/loadline/internal/sandbox"
)

func main() {
	sandbox.Main() // does not return when this process is a launcher of outsiders' code
	os.Exit(run(os.Args[1:]))
}
