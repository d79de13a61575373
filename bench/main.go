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
	play()
	var b bench
	only := flag.String("only", "", "run only this `suite`: path, spine, engines, loadline, ramp, uneven, overload, change or scaling")
	flag.StringVar(&b.bin, "bin", "../bin/loadline", "the loadline `binary`")
	flag.StringVar(&b.python, "python", os.Getenv("LOADLINE_TEST_PYTHON"), "an `interpreter` with MLflow and the models' packages")
	flag.IntVar(&b.rounds, "rounds", 5, "interleaved rounds")
	flag.DurationVar(&b.stretch, "stretch", 2*time.Second, "how long each subject is asked in a round")
	flag.IntVar(&b.clients, "clients", 4, "connections, each with one request at a time")
	flag.StringVar(&b.modes, "modes", "", "a `pattern`: only these modes of the path suite")
	flag.StringVar(&b.subjects, "subjects", "", "a `pattern`: only these subjects of the path suite, besides HAProxy")
	flag.BoolVar(&b.pin, "pin", true, "subjects of the path suite share one processor, the load has another")
	flag.StringVar(&b.results, "results", "results", "`folder` for the JSON results")
	flag.StringVar(&asked.traces, "traces", os.Getenv("LOADLINE_TRACES"), "the `folder` of public traces, for the scaling suite")
	flag.Parse()
	asked.short = !*thorough
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) error {
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
	suites := []struct {
		name string
		run  func(context.Context) (any, error)
	}{{"path", b.paths}, {"spine", b.spine}, {"engines", b.engines}, {"loadline", b.lines}, {"ramp", b.ramp},
		{"uneven", b.uneven}, {"overload", b.overload}, {"change", b.change}, {"scaling", b.scaling}}
	for _, suite := range suites {
		if only != "" && only != suite.name {
			continue
		}
		if only == "" && suite.name == "scaling" && asked.traces == "" {
			fmt.Println("scaling is left out: -traces must say where the public traces lie")
			continue
		}
		results, err := suite.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", suite.name, err)
		}
		file, err := write(b.results, suite.name, results)
		if err != nil {
			return err
		}
		fmt.Printf("\nwritten to %s\n\n", file)
	}
	return nil
}
