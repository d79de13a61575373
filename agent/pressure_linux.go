package agent

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"loadline.dev/loadline/link"
)

// A gauge reads what an engine process uses from one look to the next.
type gauge struct {
	at                   time.Time
	busy, wait, throttle time.Duration // since the process began
}

// tick is the kernel's unit of processor time in /proc; it has been a hundredth
// of a second on every architecture for as long as Go runs there.
const tick = 10 * time.Millisecond

// read looks at the process; limit is the bytes it may have, zero the machine's.
// It returns nil when there is nothing to be seen.
func (g *gauge) read(pid int, limit int64, now time.Time) *link.Pressure {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	busy, wait, pages, ok := parseStat(stat)
	if !ok {
		return nil
	}
	if limit <= 0 {
		var machine unix.Sysinfo_t
		if unix.Sysinfo(&machine) == nil {
			limit = int64(machine.Totalram) * int64(machine.Unit)
		}
	}
	throttle := throttled(pid)
	p := new(link.Pressure)
	if limit > 0 {
		p.Memory = uint64(pages) * uint64(os.Getpagesize()) * 1000 / uint64(limit)
	}
	if span := now.Sub(g.at); !g.at.IsZero() && span > 0 {
		share := func(spent time.Duration) uint64 { return uint64(max(0, spent) * 1000 / span) }
		p.CPU = share((busy - g.busy) / time.Duration(runtime.NumCPU()))
		p.IOWait, p.Throttled = share(wait-g.wait), share(throttle-g.throttle)
	}
	g.at, g.busy, g.wait, g.throttle = now, busy, wait, throttle
	return p
}

// parseStat reads processor time, time waiting for disks and resident pages from
// /proc/PID/stat (proc_pid_stat(5): fields 14, 15, 42 and 24). The name in
// parentheses may hold anything.
func parseStat(stat []byte) (busy, wait time.Duration, pages int64, ok bool) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, 0, false
	}
	fields := bytes.Fields(stat[end+1:]) // from field 3 on
	const user, system, resident, disk = 14 - 3, 15 - 3, 24 - 3, 42 - 3
	if len(fields) <= disk {
		return 0, 0, 0, false
	}
	number := func(i int) int64 {
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		ok = ok && err == nil && n >= 0
		return n
	}
	ok = true
	busy = time.Duration(number(user)+number(system)) * tick
	wait = time.Duration(number(disk)) * tick
	pages = number(resident)
	return busy, wait, pages, ok
}

// throttled is how long the process's control group was kept from running since
// it began, where there is one that says so (cgroup v2).
func throttled(pid int) time.Duration {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(groups) {
		path, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::"))
		if !ok {
			continue
		}
		stat, err := os.ReadFile("/sys/fs/cgroup" + string(path) + "/cpu.stat")
		if err != nil {
			return 0
		}
		for line := range bytes.Lines(stat) {
			if value, ok := bytes.CutPrefix(line, []byte("throttled_usec ")); ok {
				n, _ := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
				return time.Duration(n) * time.Microsecond
			}
		}
	}
	return 0
}
