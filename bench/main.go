// Command bench measures Loadline beside its rivals: same machine, same run,
// interleaved rounds, CPU time by the processes' own accounts. It fails only
// when it cannot run; a goal that is missed is printed as missed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	var b bench
	flag.StringVar(&b.bin, "bin", "../bin/loadline", "the loadline `binary`")
	flag.StringVar(&b.python, "python", os.Getenv("LOADLINE_TEST_PYTHON"), "an `interpreter` with MLflow and the models' packages")
	flag.IntVar(&b.rounds, "rounds", 5, "interleaved rounds")
	flag.DurationVar(&b.stretch, "stretch", 2*time.Second, "how long each subject is asked in a round")
	flag.IntVar(&b.clients, "clients", 4, "connections, each with one request at a time")
	flag.StringVar(&b.results, "results", "results", "`folder` for the JSON results")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) error {
	var err error
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "loadline-bench-"); err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer func() {
		end()
		b.stop()
		os.RemoveAll(b.dir)
	}()
	spine, err := b.spine(ctx)
	if err != nil {
		return err
	}
	file, err := write(b.results, "spine", spine)
	if err != nil {
		return err
	}
	fmt.Printf("\nwritten to %s\n", file)
	return nil
}
