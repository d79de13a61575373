package sandbox_test

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

func withDeathSignal(cmd *exec.Cmd) { cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL }

// onThreadThatEnds runs f on a thread that ends with it. The process's first
// thread never ends before the process, so while it would be the one it is held.
func onThreadThatEnds(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if syscall.Gettid() == os.Getpid() {
			onThreadThatEnds(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}
