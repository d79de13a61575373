package main

import (
	"fmt"
	"strings"
	"time"

	"loadline.dev/loadline/rest"
)

// A progress shows phases: a line for each that ended and, on a terminal, a
// line that is drawn again for the one that runs.
type progress struct {
	s     *shell
	told  map[string]bool // phases whose end was told
	begun map[string]bool // long ones whose beginning was told
	drawn bool            // a line in place is on the screen
	live  bool            // talks to a terminal
}

func newProgress(s *shell) *progress {
	return &progress{s: s, told: map[string]bool{}, begun: map[string]bool{}, live: s.talksToTerminal()}
}

// entities shows the phases of a config's entities.
func (p *progress) entities(v rest.View, version int) {
	several := 0
	for _, e := range v.Entities {
		if e.Version == version {
			several++
		}
	}
	for _, e := range v.Entities {
		if e.Version != version {
			continue
		}
		prefix := ""
		if several > 1 {
			prefix = e.Name + "  "
		}
		for _, phase := range e.Phases {
			p.phase(prefix, phase)
		}
	}
}

func (p *progress) phase(prefix string, ph rest.PhaseView) {
	id := prefix + ph.Name + ph.Started.String()
	if p.told[id] {
		return
	}
	if ph.State == "running" { // told only now and then how long
		ph.Seconds = max(ph.Seconds, time.Since(ph.Started).Seconds())
	}
	spent := took(time.Duration(ph.Seconds * float64(time.Second)))
	line := fmt.Sprintf("%s%-12s %9s  %s", prefix, ph.Name, spent, ph.Note)
	switch ph.State {
	case "running":
		if p.live {
			p.draw(fmt.Sprintf("%s%-12s %9s  %s", prefix, ph.Name, spent, bar(ph)))
		} else if ph.Seconds > 10 && !p.begun[id] {
			p.begun[id] = true
			p.s.say("%s%-12s goes on …", prefix, ph.Name)
		}
		return
	case "failed":
		line = fmt.Sprintf("%s%-12s %9s  failed: %s", prefix, ph.Name, spent, ph.Note)
	case "cached":
		line = strings.TrimRight(line, " ")
		if !strings.Contains(ph.Note, "cached") {
			line += " (cached)"
		}
	}
	p.told[id] = true
	p.stop()
	p.s.say("%s", strings.TrimRight(line, " "))
}

// bar draws how far a phase is, where it knows.
func bar(ph rest.PhaseView) string {
	const width = 24
	if ph.Total <= 0 {
		return ph.Note
	}
	full := int(min(ph.Done, ph.Total) * width / ph.Total)
	return fmt.Sprintf("[%s%s] %s of %s", strings.Repeat("=", full), strings.Repeat(" ", width-full), size(ph.Done), size(ph.Total))
}

func size(n int64) string {
	const kb = 1000
	switch {
	case n < 10*kb:
		return fmt.Sprintf("%d", n)
	case n < kb*kb:
		return fmt.Sprintf("%d kB", n/kb)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/kb/kb)
}

// draw writes a line in place of the one drawn before.
func (p *progress) draw(line string) {
	fmt.Fprintf(p.s.err, "\r\x1b[K%s", cut(clean(line), widthOf(p.s.err)-1)) // a wrapped line could not be drawn over
	p.drawn = true
}

// stop takes away the line in place.
func (p *progress) stop() {
	if p.drawn {
		fmt.Fprint(p.s.err, "\r\x1b[K")
		p.drawn = false
	}
}
