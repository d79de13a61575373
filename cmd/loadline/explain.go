package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/rest"
)

// explanation is what the server keeps of the autopilot's decisions.
type explanation struct {
	Decisions []rest.DecisionView `json:"decisions"`
	Lines     []rest.LineView     `json:"lines"`
}

func explainCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain NAME", Short: "Say why the autopilot did what it did", Args: exactly("NAME"),
		Long: `Say why the autopilot did what it did, one sentence a decision: how many replicas there should be, and how many
requests one of them may carry at once. Decisions that changed something are kept, and one a minute that did not.`,
		Example: `  loadline explain iris
  loadline explain iris --at 14:03
  loadline explain iris --last 1000 -o json`,
		RunE: func(cmd *cobra.Command, args []string) error { return s.explain(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.String("at", "", "what held at this `TIME`: 14:03, 2026-01-31T14:03:00Z, or 10m for ten minutes ago")
	f.Int("last", 10, "how many decisions")
	f.String("served", "", "one served entity, where there are several")
	return cmd
}

func (s *shell) explain(cmd *cobra.Command, name string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	query := url.Values{}
	last, _ := cmd.Flags().GetInt("last")
	if text, _ := cmd.Flags().GetString("at"); text != "" {
		at, err := momentOf(text, time.Now())
		if err != nil {
			return err
		}
		query.Set("at", at.UTC().Format(time.RFC3339))
		if !cmd.Flags().Changed("last") {
			last = 1
		}
	}
	query.Set("last", strconv.Itoa(last))
	if entity, _ := cmd.Flags().GetString("served"); entity != "" {
		query.Set("entity", entity)
	}
	var e explanation
	if err := c.do(cmd.Context(), "GET", at(name, "decisions")+"?"+query.Encode(), nil, &e); err != nil {
		return err
	}
	return s.print(e, func(w io.Writer) { showDecisions(w, e, "") })
}

// showDecisions prints one sentence a decision, and how things stand.
func showDecisions(w io.Writer, e explanation, indent string) {
	several := len(e.Lines) > 1
	name := func(entity string) string {
		if several {
			return entity + ": "
		}
		return ""
	}
	if len(e.Decisions) == 0 {
		fmt.Fprintln(w, indent+"the autopilot has decided nothing yet")
	}
	for _, d := range e.Decisions {
		fmt.Fprintf(w, "%s%s  %s%s\n", indent, stamp(d.At), name(d.Entity), clean(d.Text))
	}
	for _, l := range e.Lines {
		fmt.Fprintf(w, "%snow  %s%s\n", indent, name(l.Entity), clean(l.Text))
	}
}

// momentOf reads a time as people write it.
func momentOf(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04"} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return at, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if clock, err := time.Parse(layout, text); err == nil {
			at := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
			if at.After(now) {
				at = at.AddDate(0, 0, -1) // the last time it was that late
			}
			return at, nil
		}
	}
	return time.Time{}, usage("%v", errors.New("--at "+strconv.Quote(text)+" is not a time like 14:03, 2026-01-31T14:03:00Z or 10m"))
}
