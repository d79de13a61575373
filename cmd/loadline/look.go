package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/rest"
)

func lsCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List endpoints", Aliases: []string{"list"}, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			var list struct {
				Endpoints []rest.View `json:"endpoints"`
			}
			if err := c.do(cmd.Context(), "GET", api+"/endpoints", nil, &list); err != nil {
				return err
			}
			return s.print(list.Endpoints, func(w io.Writer) { s.table(w, list.Endpoints) })
		},
	}
}

func getCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show one endpoint in a line", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := s.view(cmd, args[0])
			if err != nil {
				return err
			}
			return s.print(v, func(w io.Writer) { s.table(w, []rest.View{v}) })
		},
	}
}

func (s *shell) view(cmd *cobra.Command, name string) (rest.View, error) {
	var v rest.View
	c, err := s.client()
	if err != nil {
		return v, err
	}
	return v, c.do(cmd.Context(), "GET", at(name), nil, &v)
}

func (s *shell) table(w io.Writer, list []rest.View) {
	rows := [][]string{{"NAME", "STATE", "CONFIG", "READY", "AGE", "ENGINE", "MODEL"}}
	for _, v := range list {
		ready, want := 0, 0
		var engines, models []string
		for _, e := range v.Entities {
			if e.Pending && v.Version > 0 || e.Version != v.Version && v.Version > 0 {
				continue
			}
			ready, want = ready+e.Ready, want+e.Want
			engines = append(engines, e.Engine)
			models = append(models, modelOf(e))
		}
		rows = append(rows, []string{v.Name, v.State, fmt.Sprint(v.Version), fmt.Sprintf("%d/%d", ready, want),
			ago(v.Created), strings.Join(engines, ","), strings.Join(models, ", ")})
	}
	s.columns(w, rows)
}

func modelOf(e rest.EntityView) string {
	const longest = 80
	if e.Model == "" {
		return cut(e.Command, longest)
	}
	if e.Pinned == "" || e.Pinned == e.Model {
		return e.Model
	}
	pinned := e.Pinned
	if kind, digest, ok := strings.Cut(pinned, ":"); ok && len(digest) == 64 {
		pinned = kind + ":" + digest[:12]
	}
	return e.Model + " = " + pinned
}

// A description is what `describe` shows.
type description struct {
	rest.View
	Events []rest.EventView `json:"events"`
	explanation
}

func describeCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME", Short: "Show versions, traffic, replicas, load line, engine with its evidence, last decisions, recent events", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			var d description
			if err := c.do(cmd.Context(), "GET", at(args[0]), nil, &d.View); err != nil {
				return err
			}
			if err := c.do(cmd.Context(), "GET", at(args[0], "events"), nil, &d); err != nil {
				return err
			}
			if err := c.do(cmd.Context(), "GET", at(args[0], "decisions")+"?last=5", nil, &d.explanation); err != nil {
				return err
			}
			const recent = 20
			d.Events = d.Events[max(0, len(d.Events)-recent):]
			return s.print(d, func(w io.Writer) { s.describe(w, d) })
		},
	}
}

func (s *shell) describe(w io.Writer, d description) {
	rows := [][]string{
		{"Name", d.Name}, {"Id", d.ID}, {"State", d.State}, {"Config", configLine(d.View)},
		{"Creator", d.Creator}, {"Created", stamp(d.Created)}, {"Updated", stamp(d.Updated)},
	}
	if d.Description != "" {
		rows = append(rows, []string{"Description", d.Description})
	}
	var shares []string
	for _, t := range d.Traffic {
		shares = append(shares, fmt.Sprintf("%s=%d", t.Entity, t.Percent))
	}
	rows = append(rows, []string{"Traffic", strings.Join(shares, " ")})
	if line := limitLine(d.View); line != "" {
		rows = append(rows, []string{"Limits", line})
	}
	s.columns(w, rows)
	for _, e := range d.Entities {
		fmt.Fprintln(w)
		s.describeEntity(w, e)
	}
	if f := d.Failed; f != nil {
		fmt.Fprintf(w, "\nFailed config %d at %s: %s\n", f.Version, stamp(f.At), clean(f.Why))
		if f.Fix != "" {
			fmt.Fprintf(w, "  fix    %s\n", clean(f.Fix))
		}
	}
	if len(d.History) > 0 {
		fmt.Fprintln(w, "\nEarlier configs (loadline rollback "+d.Name+" --to N)")
		for _, h := range d.History {
			fmt.Fprintf(w, "  %d  %s  %s\n", h.Version, stamp(h.Created), clean(strings.Join(h.Models, ", ")))
		}
	}
	if len(d.Decisions)+len(d.Lines) > 0 {
		fmt.Fprintln(w, "\nAutopilot (loadline explain "+d.Name+")")
		showDecisions(w, d.explanation, "  ")
	}
	if len(d.Events) > 0 {
		fmt.Fprintln(w, "\nEvents")
		s.columns(w, eventRows(d.Events))
	}
}

func configLine(v rest.View) string {
	line := fmt.Sprint(v.Version)
	if v.Pending > 0 {
		line += fmt.Sprintf(", %d is being made ready", v.Pending)
	}
	return line
}

func (s *shell) describeEntity(w io.Writer, e rest.EntityView) {
	title := "Entity " + e.Name
	if e.Pending {
		title += " (pending)"
	}
	fmt.Fprintln(w, title)
	rows := [][]string{{"  state", strings.TrimSpace(e.State + "  " + e.Message)}, {"  model", modelOf(e)},
		{"  engine", e.Engine}, {"  why", e.Why}}
	if r := e.Runtime; r != nil {
		rows = append(rows, []string{"  environment", fmt.Sprintf("python %s, mlflow %s, %.12s", r.Python, r.MLflow, r.Digest)})
	}
	if e.Revision != "" {
		rows = append(rows, []string{"  revision", fmt.Sprintf("%.12s", e.Revision)})
	}
	rows = append(rows, []string{"  scale", scaleLine(e.Scale)}, []string{"  replicas", fmt.Sprintf("%d of %d ready", e.Ready, e.Want)})
	if e.Strict {
		rows = append(rows, []string{"  strict", "yes"})
	}
	if e.Egress {
		rows = append(rows, []string{"  egress", "allowed"})
	}
	for _, r := range e.Replicas {
		line := fmt.Sprintf("%s  pid %d  engine %d  %s", r.State, r.PID, r.Engine, ago(r.Started))
		if r.Restarts > 0 {
			line += fmt.Sprintf("  %d restarts", r.Restarts)
		}
		if r.Why != "" {
			line += "  " + r.Why
		}
		rows = append(rows, []string{"    " + r.ID, line})
	}
	for _, p := range e.Phases {
		rows = append(rows, []string{"    " + p.Name, fmt.Sprintf("%-8s %8s  %s", p.State,
			took(time.Duration(p.Seconds*float64(time.Second))), p.Note)})
	}
	s.columns(w, rows)
}

func scaleLine(v rest.ScaleView) string {
	line := fmt.Sprintf("min %d", v.Min)
	if v.Max > 0 {
		line += fmt.Sprintf(", max %d", v.Max)
	}
	for _, part := range [][2]string{{"idle", v.Idle}, {"objective", v.Objective}, {"policy", v.Policy}, {"queue", v.Queue}} {
		if part[1] != "" {
			line += fmt.Sprintf(", %s %s", part[0], part[1])
		}
	}
	return line
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func eventRows(events []rest.EventView) [][]string {
	var rows [][]string
	for _, e := range events {
		rows = append(rows, []string{"  " + stamp(e.At), e.Kind, e.Entity, e.Text})
	}
	return rows
}

func eventsCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "events NAME", Short: "Show what happened to an endpoint", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			var list struct {
				Events []rest.EventView `json:"events"`
			}
			if err := c.do(cmd.Context(), "GET", at(args[0], "events"), nil, &list); err != nil {
				return err
			}
			return s.print(list.Events, func(w io.Writer) { s.columns(w, eventRows(list.Events)) })
		},
	}
}
