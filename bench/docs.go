package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func init() { roles["docs"] = writeDocs }

// writeDocs writes the tables of the path suite into the page, between the
// lines that name them, from the results that lie in their folder.
func writeDocs(args []string) error {
	f := flag.NewFlagSet("docs", flag.ExitOnError)
	results := f.String("results", "results", "`folder` of the JSON results")
	page := f.String("page", "../docs/benchmarks.md", "the `page`")
	_ = f.Parse(args)
	data, err := os.ReadFile(filepath.Join(*results, "path.json"))
	if err != nil {
		return err
	}
	var kept struct {
		When    string
		Machine struct {
			CPU   string
			Cores int
			Go    string
		}
		Results pathResults
	}
	if err := json.Unmarshal(data, &kept); err != nil {
		return err
	}
	text, err := os.ReadFile(*page)
	if err != nil {
		return err
	}
	r := kept.Results
	blocks := map[string]string{
		"machine": fmt.Sprintf("Measured %s on %d cores of %s with %s, the %s set.\n", kept.When[:10], kept.Machine.Cores, kept.Machine.CPU,
			kept.Machine.Go, map[bool]string{true: "short", false: "full"}[r.Short]),
		"goals": r.goals(), "bare": r.ratios("bare"), "full": r.ratios("full"), "latency": r.ratios("latency"),
		"batching": r.curve("batching", "clients"), "connections": r.curve("connections", "connections"), "bodies": r.curve("bodies", "bytes"),
		"endpoints": r.curve("endpoints", "endpoints"), "replicas": r.curve("replicas", "replicas"), "idle": r.idle(),
	}
	for name, block := range blocks {
		begin, end := "<!-- path.json: "+name+" -->\n", "<!-- end -->"
		head, rest, ok := strings.Cut(string(text), begin)
		_, tail, whole := strings.Cut(rest, end)
		if !ok || !whole {
			return fmt.Errorf("%s has no block %q that ends with %q", *page, strings.TrimSpace(begin), end)
		}
		text = []byte(head + begin + block + end + tail)
	}
	return os.WriteFile(*page, text, 0o644)
}

// tableRow writes a line of a table.
func tableRow(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

func tableHead(cells ...string) string {
	return tableRow(cells...) + strings.Repeat("|---", len(cells)) + "|\n"
}

func (r *pathResults) goals() string {
	text := tableHead("", "figure", "goal", "")
	for _, g := range r.Goals {
		sign, verdict := "≥", "met"
		if g.AtMost {
			sign = "≤"
		}
		if !g.met() {
			verdict = "**missed**"
		}
		text += tableRow(g.What, short(g.Figure), sign+" "+short(g.Bound), verdict)
	}
	return text
}

// of lists the modes and the ways of a part, in the order they were measured in.
func (r *pathResults) of(part string) (modes, ways []string, find func(mode, way string) pathRow) {
	rows := map[string]pathRow{}
	for _, row := range r.Rows {
		if row.Part != part {
			continue
		}
		rows[row.Mode+"\n"+row.Way] = row
		if !slices.Contains(modes, row.Mode) {
			modes = append(modes, row.Mode)
		}
		if !slices.Contains(ways, row.Way) {
			ways = append(ways, row.Way)
		}
	}
	return modes, ways, func(mode, way string) pathRow { return rows[mode+"\n"+way] }
}

// ratios tells the ways of a part beside each other, mode by mode.
func (r *pathResults) ratios(part string) string {
	modes, ways, find := r.of(part)
	text := tableHead(append([]string{""}, ways...)...)
	for _, m := range modes {
		cost, slow, calls := []string{m + ": CPU ÷ HAProxy + server"}, []string{m + ": p99 ÷ HAProxy's"}, []string{m + ": system calls a request"}
		for _, w := range ways {
			row := find(m, w)
			cost = append(cost, row.Ratio.String())
			slow = append(slow, slower("p99", row, find(m, haproxy)).String())
			calls = append(calls, strings.Split(row.Syscalls.String(), " ")[0])
		}
		text += tableRow(cost...) + tableRow(slow...) + tableRow(calls...)
	}
	return text
}

// curve tells how the cost of a request grows, as multiples of its first point.
func (r *pathResults) curve(part, unit string) string {
	modes, _, find := r.of(part)
	text := tableHead(unit, "ours ÷ HAProxy + server", "ours ÷ ours at first", "HAProxy ÷ HAProxy at first", "system calls, ours", "HAProxy")
	for _, m := range modes {
		us, them := find(m, ours), find(m, haproxy)
		grown := func(row pathRow) string {
			return short(row.CPU["whole"].median() / find(modes[0], row.Way).CPU["whole"].median())
		}
		text += tableRow(strconv.Itoa(us.X), us.Ratio.String(), grown(us), grown(them), short(us.Syscalls.median()), short(them.Syscalls.median()))
	}
	return text
}

func (r *pathResults) idle() string {
	text := tableHead("front", "connections", "KiB each")
	for _, row := range r.Idle {
		var kib series
		for _, b := range row.Bytes {
			kib = append(kib, b/1024)
		}
		text += tableRow(row.Way, strconv.Itoa(row.Connections), kib.String())
	}
	return text
}
