package rest

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"loadline.dev/loadline/serving"
)

// A DecisionView is one decision of the autopilot: the row, and the row in a sentence.
type DecisionView struct {
	At       time.Time `json:"at"`
	Entity   string    `json:"entity"`
	Axis     string    `json:"axis"` // replicas, line
	From     int       `json:"from"`
	To       int       `json:"to"`
	Rule     string    `json:"rule"`
	Why      string    `json:"why"`
	Refused  int       `json:"refused"`
	Text     string    `json:"text"`
	Ready    int       `json:"ready"`
	Starting int       `json:"starting"`
	Arrivals float64   `json:"arrivals_per_s"`
	InFlight int       `json:"in_flight"`
	Waiting  int       `json:"waiting"`
	Service  float64   `json:"service_s"`
	Demand   float64   `json:"demand"`
	Headroom float64   `json:"headroom"`
	Line     float64   `json:"line"`
	Lambda   float64   `json:"lambda,omitempty"`
	Sigma    float64   `json:"sigma,omitempty"`
	Kappa    float64   `json:"kappa,omitempty"`
	P99      float64   `json:"p99_s,omitempty"`
	P99Error float64   `json:"p99_error_s,omitempty"`
	Goal     float64   `json:"objective_s,omitempty"`
	Cost     float64   `json:"replica_seconds,omitempty"`
}

// A LineView is the load line of one entity.
type LineView struct {
	Entity string       `json:"entity"`
	Line   int          `json:"line"`
	Plan   float64      `json:"planned_with"`
	Start  float64      `json:"start_s"` // how long a replica takes to start; 0 when none was seen
	Text   string       `json:"text"`
	Last   DecisionView `json:"last"`
}

func decisionView(d serving.Decision) DecisionView {
	return DecisionView{At: d.At, Entity: d.Entity, Axis: d.Axis, From: d.From, To: d.To, Rule: d.Rule, Why: d.Why, Refused: d.Refused,
		Text: sentence(d), Ready: d.Ready, Starting: d.Starting, Arrivals: d.Arrivals, InFlight: d.InFlight, Waiting: d.Waiting,
		Service: d.Service.Seconds(), Demand: d.Demand, Headroom: d.Headroom, Line: d.Line, Lambda: d.Lambda, Sigma: d.Sigma,
		Kappa: d.Kappa, P99: d.Tail.Seconds(), P99Error: d.TailError.Seconds(), Goal: d.Objective.Seconds(), Cost: d.Cost}
}

// sentence says a decision as one would say it aloud.
func sentence(d serving.Decision) string {
	var text strings.Builder
	if d.Axis == "line" {
		sayLine(&text, d)
		return text.String()
	}
	switch {
	case d.From == d.To:
		fmt.Fprintf(&text, "stays at %s: %s.", count(d.To, "replica"), d.Why)
	case d.From < d.To:
		fmt.Fprintf(&text, "from %d to %s: %s.", d.From, count(d.To, "replica"), d.Why)
	default:
		fmt.Fprintf(&text, "from %d down to %s: %s.", d.From, count(d.To, "replica"), d.Why)
	}
	if d.Arrivals > 0 && d.Service > 0 {
		fmt.Fprintf(&text, " %.0f requests came in the second before and took %s each;", d.Arrivals, short(d.Service))
	} else if d.Arrivals > 0 {
		fmt.Fprintf(&text, " %s came in the second before;", count(int(d.Arrivals), "request"))
	} else {
		text.WriteString(" Nothing came in the second before;")
	}
	if d.Demand > 0 {
		fmt.Fprintf(&text, " that is %.1f at once", d.Demand)
		if d.Headroom > 0 {
			fmt.Fprintf(&text, ", and %.1f more to be safe", d.Headroom)
		}
		text.WriteByte(';')
	}
	fmt.Fprintf(&text, " one replica carries %.1f; %d ready, %d starting, %s waiting.", d.Line, d.Ready, d.Starting, count(d.Waiting, "request"))
	if d.Refused != d.To {
		fmt.Fprintf(&text, " Demand alone asked for %d.", d.Refused)
	}
	return text.String()
}

func sayLine(text *strings.Builder, d serving.Decision) {
	if d.From == d.To {
		fmt.Fprintf(text, "a replica may carry %s at once: %s.", count(d.To, "request"), d.Why)
	} else {
		fmt.Fprintf(text, "a replica may carry %d at once instead of %d: %s.", d.To, d.From, d.Why)
	}
	if d.Lambda > 0 {
		fmt.Fprintf(text, " Fitted: %.1f a second alone, %.3f of the work one at a time, %.5f in each other's way;", d.Lambda, d.Sigma, d.Kappa)
		fmt.Fprintf(text, " the 99th percentile inside is then %s ± %s, and may be %s.", short(d.Tail), short(d.TailError), short(d.Objective))
	}
	if d.Refused != d.To {
		fmt.Fprintf(text, " Otherwise it would be %d.", d.Refused)
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// short rounds a duration to three digits.
func short(d time.Duration) string {
	for unit := time.Nanosecond; ; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
}

// entityQuery reads which endpoint, and which entity of it, is asked about.
func (a *api) entityQuery(r *http.Request) (serving.Endpoint, string, error) {
	if a.Pilot == nil {
		return serving.Endpoint{}, "", &serving.Error{Op: "autopilot", Kind: serving.Unavailable, Err: errors.New("this server has none")}
	}
	e, err := a.Desk.Get(r.Context(), a.Who(r).Tenant, r.PathValue("name"))
	if err != nil {
		return e, "", err
	}
	entity := r.URL.Query().Get("entity")
	if _, there := e.Active.Entity(entity); entity != "" && !there {
		return e, "", &serving.Error{Subject: entity, Kind: serving.NotFound, Err: fmt.Errorf("%s serves %s", e.Name, strings.Join(entityNames(e.Active), ", "))}
	}
	return e, entity, nil
}

const mostDecisions = 10_000

func (a *api) decisions(w http.ResponseWriter, r *http.Request) error {
	e, entity, err := a.entityQuery(r)
	if err != nil {
		return err
	}
	n := 20
	if text := r.URL.Query().Get("last"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > mostDecisions {
			return invalid("last is %.20q; it must be from 1 to %d", text, mostDecisions)
		}
	}
	var until time.Time
	if text := r.URL.Query().Get("at"); text != "" {
		if until, err = time.Parse(time.RFC3339, text); err != nil {
			return invalid("at is %.40q; it must be a time as 2026-01-31T12:00:00Z", text)
		}
	}
	rows, err := a.Pilot.Decisions(e.ID, entity, until, n)
	if err != nil {
		return err
	}
	decisions, lines := []DecisionView{}, []LineView{}
	for _, d := range rows {
		decisions = append(decisions, decisionView(d))
	}
	for _, l := range a.Pilot.Lines(e.ID) {
		if entity == "" || l.Entity == entity {
			last := decisionView(l.Last)
			lines = append(lines, LineView{l.Entity, l.Last.To, l.Plan, l.Start.Seconds(), last.Text, last})
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"decisions": decisions, "lines": lines})
	return nil
}

// A SecondView is one second with traffic.
type SecondView struct {
	At       int64   `json:"at"` // Unix seconds, of its end
	Arrivals int     `json:"arrivals"`
	Ended    int     `json:"ended"`
	Worked   float64 `json:"worked_s"` // in service, of those that ended, summed
	Waiting  int     `json:"waiting"`
	Late     int     `json:"late"`
	Lost     int     `json:"lost"`
	Failed   int     `json:"failed"`
	Replicas int     `json:"replicas"`
	Ready    int     `json:"ready"`
	Line     int     `json:"line"`
}

// recorded answers with an entity's traffic, second by second.
func (a *api) recorded(w http.ResponseWriter, r *http.Request) error {
	e, entity, err := a.entityQuery(r)
	if err != nil {
		return err
	}
	if entity == "" && len(e.Active.Entities) == 1 {
		entity = e.Active.Entities[0].Name
	}
	if entity == "" {
		return invalid("%s serves %d entities; say whose traffic", e.Name, len(e.Active.Entities))
	}
	since := 24 * time.Hour
	if text := r.URL.Query().Get("since"); text != "" {
		if since, err = time.ParseDuration(text); err != nil || since <= 0 {
			return invalid("since is %.20q; it must be a duration as 24h", text)
		}
	}
	seconds, err := a.Pilot.Traffic(e.ID, entity, time.Now().Add(-since))
	if err != nil {
		return err
	}
	list := []SecondView{}
	for _, s := range seconds {
		list = append(list, SecondView{s.At, s.Arrivals, s.Ended, s.Worked.Seconds(), s.Waiting, s.Late, s.Lost, s.Failed, s.Replicas, s.Ready, s.Line})
	}
	writeJSON(w, http.StatusOK, map[string]any{"entity": entity, "seconds": list})
	return nil
}
