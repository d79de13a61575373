package agent

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signals turns the process's signals into what [Run] wants: the first
// terminating one asks for a drain, the second ends the context. stop gives
// the signals back.
func Signals(parent context.Context) (ctx context.Context, drain <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	asked := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-signals:
			close(asked)
		case <-ctx.Done():
			return
		}
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, asked, func() {
		signal.Stop(signals)
		cancel()
		<-done
	}
}
