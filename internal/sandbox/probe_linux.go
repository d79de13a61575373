package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Probe reports what this machine can hold a process to. It makes and removes
// a control group to find out.
func Probe() Holds {
	abi := landlockABI()
	memory, processes := probeGroups()
	return Holds{
		Files:     probeFiles(abi),
		Network:   probeNetwork(abi),
		Processes: probeProcesses(abi, processes),
		Memory:    memory,
	}
}

func probeFiles(abi int) Hold {
	switch {
	case abi == 0:
		return Hold{Why: "this kernel has no Landlock (Linux 5.13 and later, when it is switched on)"}
	case abi < 3:
		return Hold{Why: fmt.Sprintf("Landlock version %d cannot forbid cutting files short; version 3 (Linux 6.2) can", abi)}
	}
	return Hold{Held: true, Why: "names, sizes and command lines elsewhere can still be seen, contents cannot; the sum of what is written is not bounded, each file is"}
}

func probeNetwork(abi int) Hold {
	switch {
	case auditArch == 0:
		return Hold{Why: "no seccomp filter is known for this processor"}
	case abi < 4:
		return Hold{Why: fmt.Sprintf("Landlock version %d knows no ports; version 4 (Linux 6.7) does", abi)}
	}
	return Hold{Held: true, Why: "an HTTP engine may listen on its port at any address of this machine, not on loopback alone"}
}

func probeProcesses(abi int, pids Hold) Hold {
	switch {
	case abi < 6:
		return Hold{Why: fmt.Sprintf("Landlock version %d lets signals out; version 6 (Linux 6.12) does not", abi)}
	case !pids.Held:
		return Hold{Why: "signals are held in, but the number of processes is not bounded: " + pids.Why}
	}
	return pids
}

func probeGroups() (memory, processes Hold) {
	name := "probe-" + strconv.Itoa(os.Getpid())
	g, err := newGroup(Policy{Name: name, Memory: 1 << 30, Processes: 1 << 10})
	defer func() { _ = Clean(name) }()
	why := "no control group with a memory or pids controller may be made here"
	if err != nil {
		why = err.Error()
	}
	memory, processes = Hold{Held: g.Memory}, Hold{Held: g.Processes}
	if !memory.Held {
		memory.Why = why + "; a limit on reserved memory stands in"
	}
	if !processes.Held {
		processes.Why = why
	}
	for _, dir := range g.Dirs {
		// Version 1 without a writable task list would fail only at start.
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil && strings.Contains(dir, "memory") {
			memory = Hold{Why: err.Error()}
		}
	}
	return memory, processes
}
