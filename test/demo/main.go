// Command demo runs Loadline's main job on real parts and tells each step with
// its time: six models trained, logged and registered with MLflow, deployed,
// compared with MLflow's own server, changed and killed under load, restarted.
// It fails at the first thing that is not as it should be.
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
	bin := flag.String("bin", "bin/loadline", "the loadline `binary`")
	python := flag.String("python", os.Getenv("LOADLINE_TEST_PYTHON"), "an `interpreter` with MLflow and the models' packages")
	keep := flag.Bool("keep", false, "leave the server running at the end, to try things")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *python, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, python string, keep bool) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "loadline-demo-")
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	s := &story{Bin: bin, Python: python, Root: root, Dir: dir, Out: os.Stdout, began: time.Now()}
	defer func() {
		s.server.Stop()
		s.tracking.Stop()
		end()
	}()
	if err := s.tell(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "everything is left in %s to look at\n", dir)
		return err
	}
	if keep {
		fmt.Printf("\nThe server stays up until Ctrl-C. In another terminal:\n\n  export LOADLINE_HOST=%s LOADLINE_DATA=%s\n  %s ls\n  %s describe fraud\n  %s invoke churn\n  curl %s -H 'content-type: application/json' -d @%s\n",
			s.host(), s.data(), bin, bin, bin, s.invocations("churn"), filepath.Join(s.models[0].Dir, "serving_input_example.json"))
		<-ctx.Done()
	}
	if err := s.finish(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	fmt.Print("\nTo try next:\n  make demo KEEP=1                      the same, and the server stays up\n  bin/loadline serve ./model            one model of your own\n  bin/loadline up; bin/loadline deploy NAME models:/…@champion\n")
	return os.RemoveAll(dir)
}

// tell is the whole story, up to the table.
func (s *story) tell(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.deploy(ctx); err != nil {
		return err
	}
	if err := s.compare(ctx); err != nil {
		return err
	}
	for _, m := range s.models {
		if m.Name == "fraud" {
			if err := s.change(ctx, m); err != nil {
				return err
			}
		}
	}
	if err := s.restart(ctx); err != nil {
		return err
	}
	return s.table(ctx)
}
