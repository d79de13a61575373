// Package nonblock reads and writes descriptors that never block, without
// telling Go's scheduler.
//
// An ordinary system call does, in case it takes long; if the process was idle
// before, that wakes the runtime's monitor thread, which at a few thousand
// requests a second costs as much as the requests do. A socket that does not
// block returns in microseconds, so nothing is lost. It is no use for anything
// else: a call that blocks here blocks every goroutine of its processor.
package nonblock
