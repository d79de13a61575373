//go:build !linux

package agent

import "os/exec"

// dieWithParent does nothing: only Linux has a death signal. An engine whose
// agent was killed is reaped by whoever adopts the replica's folder.
func dieWithParent(*exec.Cmd) {}
