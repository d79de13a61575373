//go:build !linux

package sandbox_test

import "os/exec"

func withDeathSignal(*exec.Cmd) {}

func onThreadThatEnds(f func()) { f() }
