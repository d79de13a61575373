package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
	"go.yaml.in/yaml/v4"
	"golang.org/x/term"
)

// print writes data: as JSON or YAML when asked for, else by the given table.
func (s *shell) print(value any, table func(io.Writer)) error {
	switch s.format {
	case "json":
		e := json.NewEncoder(s.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(value)
	case "yaml":
		return s.printYAML(value)
	}
	var text bytes.Buffer
	table(&text)
	_, err := s.out.Write(text.Bytes()) // a full disk must not look like an empty list
	return err
}

// printYAML goes by way of JSON, so that both have the same names and order.
func (s *shell) printYAML(value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return err
	}
	block(&doc)
	text, err := yaml.Marshal(&doc)
	if err != nil {
		return err
	}
	_, err = s.out.Write(text)
	return err
}

// block turns JSON's flow style into YAML's usual one.
func block(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Style == yaml.DoubleQuotedStyle && n.Tag == "!!str" {
		n.Style = 0
		var plain yaml.Node
		if err := yaml.Unmarshal([]byte(n.Value), &plain); err != nil || len(plain.Content) != 1 ||
			plain.Content[0].Tag != "!!str" || plain.Content[0].Value != n.Value {
			n.Style = yaml.DoubleQuotedStyle
		}
		return
	}
	if len(n.Content) > 0 {
		n.Style = 0
	}
	for _, c := range n.Content {
		block(c)
	}
}

// columns writes rows so that they line up; a terminal that is too narrow cuts
// the last column, a file gets everything.
func (s *shell) columns(w io.Writer, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			cell = oneLine.Replace(clean(cell))
			row[i] = cell
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	limit := s.width()
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		fmt.Fprintln(w, cut(strings.TrimRight(line.String(), " "), limit))
	}
}

// oneLine keeps a cell on its row, whatever it holds: a command may be a program.
var oneLine = strings.NewReplacer("\n", " ", "\t", " ")

func cut(line string, limit int) string {
	if limit <= 0 || utf8.RuneCountInString(line) <= limit {
		return line
	}
	runes := []rune(line)
	return string(runes[:limit-1]) + "…"
}

// width is that of the terminal, or 0 when stdout is none.
func (s *shell) width() int { return widthOf(s.out) }

func widthOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !isatty.IsTerminal(f.Fd()) {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// talksToTerminal says whether progress may be drawn in place.
func (s *shell) talksToTerminal() bool {
	f, ok := s.err.(*os.File)
	return ok && isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb"
}

func (s *shell) say(format string, args ...any) {
	fmt.Fprintln(s.err, clean(fmt.Sprintf(format, args...)))
}

// took writes a duration as people say it: 340 ms, 2.1 s, 3 m 10 s.
func took(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d m %d s", int(d.Minutes()), int(d.Seconds())%60)
}

// ago writes how long something is past.
func ago(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// hearsTerminal says whether a person can be asked.
func (s *shell) hearsTerminal() bool {
	f, ok := s.in.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
