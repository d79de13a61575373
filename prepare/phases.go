package prepare

import (
	"errors"
	"fmt"
	"io"
	"time"

	"loadline.dev/loadline/serving"
)

// phases tells of each step as it begins, moves on and ends.
type phases struct {
	report func(serving.Phase)
	log    io.Writer
	done   []serving.Phase
}

// run does one phase. What do says of its progress is passed on: of Phase it
// fills Note, Done, Total and, if nothing had to be done, State.
func (s *phases) run(name string, do func(say func(serving.Phase)) error) error {
	p := serving.Phase{Name: name, State: serving.PhaseRunning, Started: time.Now().UTC()}
	s.report(p)
	end := serving.PhaseDone
	err := do(func(now serving.Phase) {
		p.Note, p.Done, p.Total = now.Note, now.Done, now.Total
		if now.State == serving.PhaseCached {
			end = serving.PhaseCached
		}
		p.Took = time.Since(p.Started)
		s.report(p)
	})
	p.State, p.Took = end, time.Since(p.Started)
	if err != nil {
		p.State, p.Note = serving.PhaseFailed, err.Error()
	}
	s.end(p)
	if _, known := errors.AsType[*serving.Error](err); err != nil && known {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return &serving.Error{Op: name, Kind: serving.KindOf(err), Err: err}
	}
	return nil
}

// cached tells of a phase that was done before.
func (s *phases) cached(name, note string) {
	s.end(serving.Phase{Name: name, State: serving.PhaseCached, Started: time.Now().UTC(), Note: note})
}

func (s *phases) end(p serving.Phase) {
	fmt.Fprintf(s.log, "%s %-11s %-7s %6.1f s  %s\n", p.Started.Format(time.RFC3339), p.Name, p.State, p.Took.Seconds(), p.Note)
	s.done = append(s.done, p)
	s.report(p)
}
