package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"loadline.dev/loadline/serving"
)

// writePhases tells a preparation for a reader, one line a phase.
func writePhases(text *strings.Builder, s serving.EntityStatus) {
	for _, p := range s.Phases {
		fmt.Fprintf(text, "%s  %-12s %-8s %8s  %s\n", p.Started.UTC().Format(time.RFC3339), p.Name, p.State,
			p.Took.Round(time.Millisecond), p.Note)
	}
	if s.Message != "" {
		fmt.Fprintf(text, "%s: %s\n", s.State, s.Message)
	}
}

// newest finds an entity's status, the pending config's before the active one's.
func newest(all []serving.EntityStatus, entity string) int {
	found := -1
	for i, s := range all {
		if s.Entity.Name == entity && (found < 0 || s.Config > all[found].Config) {
			found = i
		}
	}
	return found
}

func sharesOf(splits []serving.Split) string {
	var parts []string
	for _, s := range splits {
		parts = append(parts, fmt.Sprintf("%s=%d", s.Entity, s.Percent))
	}
	return strings.Join(parts, ", ")
}

func entityNames(c serving.Config) []string {
	var names []string
	for _, e := range c.Entities {
		names = append(names, e.Name)
	}
	return names
}

// everyEntityName lists the entities of all configs that a record still knows.
func everyEntityName(e serving.Endpoint) []string {
	names := entityNames(e.Active)
	if e.Pending != nil {
		names = append(names, entityNames(*e.Pending)...)
	}
	if e.Failed != nil {
		names = append(names, entityNames(e.Failed.Config)...)
	}
	for _, c := range e.History {
		names = append(names, entityNames(c)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
