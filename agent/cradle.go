package agent

import (
	"os/exec"
	"runtime"
)

// A cradle is an OS thread that starts processes and outlives them: where the
// kernel sends a death signal, it goes by the thread that started the child.
type cradle struct {
	orders chan order
	done   chan struct{}
}

type order struct {
	cmd *exec.Cmd
	err chan error
}

func newCradle() *cradle {
	c := &cradle{orders: make(chan order), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		for o := range c.orders {
			o.err <- o.cmd.Start()
		}
	}()
	return c
}

func (c *cradle) spawn(cmd *exec.Cmd) error {
	dieWithParent(cmd)
	o := order{cmd, make(chan error, 1)}
	c.orders <- o
	return <-o.err
}

// close ends the thread, and with it whatever it started and still lives.
func (c *cradle) close() {
	close(c.orders)
	<-c.done
}
