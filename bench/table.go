package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A series is one figure, a value a round.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// String shows the median and between which values the rounds lay.
func (s series) String() string {
	if len(s) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s (%s–%s)", short(s.median()), short(slices.Min(s)), short(slices.Max(s)))
}

func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// A goal is a figure, the bound it should keep, and whether it does.
type goal struct {
	What   string
	Figure float64
	Bound  float64
	AtMost bool // else at least
}

func (g goal) met() bool {
	if g.AtMost {
		return g.Figure <= g.Bound
	}
	return g.Figure >= g.Bound
}

func printGoals(w io.Writer, goals []goal) {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, g := range goals {
		sign, verdict := "≥", "met"
		if g.AtMost {
			sign = "≤"
		}
		if !g.met() {
			verdict = "MISSED"
		}
		fmt.Fprintf(tab, "%s\t%s\t%s %s\t%s\n", g.What, short(g.Figure), sign, short(g.Bound), verdict)
	}
	tab.Flush()
}

// write keeps the results with what they were measured on.
func write(dir, name string, results any) (string, error) {
	host, _ := os.ReadFile("/proc/cpuinfo")
	model := ""
	for line := range strings.Lines(string(host)) {
		if rest, ok := strings.CutPrefix(line, "model name"); ok {
			model = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), ":"))
			break
		}
	}
	data, err := json.MarshalIndent(map[string]any{
		"when":    time.Now().UTC().Format(time.RFC3339),
		"machine": map[string]any{"cpu": model, "cores": runtime.NumCPU(), "os": runtime.GOOS, "go": runtime.Version()},
		"results": results,
	}, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file := filepath.Join(dir, name+".json")
	return file, os.WriteFile(file, append(data, '\n'), 0o644)
}

func (s series) least() float64 { return slices.Min(s) }
func (s series) most() float64  { return slices.Max(s) }
