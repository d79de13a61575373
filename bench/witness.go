package main

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A machine that is shared takes its processors away for milliseconds at a
// time, and who is measured meanwhile looks slow. Witnesses notice: one thread on
// each processor, before all others in the kernel's order, that sleeps a
// millisecond over and over. When one oversleeps by more than tolerated,
// nobody else ran there either, and it was not the subject's doing.
const (
	nap       = time.Millisecond
	tolerated = 500 * time.Microsecond
	window    = int64(50 * time.Millisecond)
)

// Witnesses say which stretches of time the machine spoiled.
type witnesses struct {
	leave   atomic.Bool
	threads []*witness
}

// A witness is one thread on one processor.
type witness struct {
	stalls [][2]int64 // from, until; ns of the monotonic clock
	done   chan bool  // closed when it ended; true before that when it may not witness
}

// watch starts a witness on each processor. Where the kernel does not grant
// the order there are none, and everything counts.
func watch() *witnesses {
	w := &witnesses{}
	runtime.GOMAXPROCS(runtime.NumCPU() + 2) // whoever wakes finds room in Go's scheduler
	for cpu := range runtime.NumCPU() {
		one := &witness{done: make(chan bool, 1)}
		w.threads = append(w.threads, one)
		go one.watch(cpu, &w.leave)
	}
	return w
}

func (w *witness) watch(cpu int, leave *atomic.Bool) {
	defer close(w.done)
	runtime.LockOSThread() // and never unlocked: the thread ends with this
	var set unix.CPUSet
	set.Set(cpu)
	const fifo = 1
	if unix.SchedSetaffinity(0, &set) != nil || unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: fifo, Priority: 50}, 0) != nil {
		w.done <- true
		return
	}
	for last := now(); !leave.Load(); {
		sleep := unix.NsecToTimespec(int64(nap))
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &sleep, nil)
		n := now()
		if n-last > int64(nap+tolerated) {
			w.stalls = append(w.stalls, [2]int64{last, n})
		}
		last = n
	}
}

// end sends the witnesses home and says of each window of time since start
// whether it counts. A window does not when a stall touched it or the one before,
// in which what had piled up was worked off.
func (w *witnesses) end(start, stop int64) (counts func(at int64) bool) {
	w.leave.Store(true)
	spoiled := make([]bool, (stop-start)/window+3)
	for _, one := range w.threads {
		if <-one.done {
			return func(int64) bool { return true }
		}
		for _, s := range one.stalls {
			for i := max(0, (s[0]-start)/window); i <= (s[1]-start)/window+1 && i < int64(len(spoiled)); i++ {
				spoiled[i] = true
			}
		}
	}
	return func(at int64) bool { return !spoiled[max(0, min((at-start)/window, int64(len(spoiled)-1)))] }
}
