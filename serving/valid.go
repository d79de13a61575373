package serving

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Limits on what one endpoint may ask for, as the API documents them.
const (
	MaxEntities = 10
	MaxVars     = 30
	MaxVarBytes = 64 << 10
)

// NamePattern is what [CheckName] allows, as messages quote it.
const NamePattern = `^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`

var nameRE = regexp.MustCompile(NamePattern)

// reservedNames cannot be folders on every system that a client may mirror to.
var reservedNames = []string{"con", "prn", "aux", "nul"}

// CheckName reports what is wrong with the name of an endpoint, or nil.
func CheckName(name string) error {
	shown := name
	if len(shown) > 80 {
		shown = shown[:80] + "…"
	}
	switch {
	case !nameRE.MatchString(name):
		return invalid("endpoint name %q must match %s", shown, NamePattern)
	case strings.HasPrefix(strings.ToLower(name), "databricks-"):
		return invalid("endpoint name %q: the prefix %q is reserved", shown, "databricks-")
	case slices.Contains(reservedNames, strings.ToLower(name)):
		return invalid("endpoint name %q is reserved; names must match %s", shown, NamePattern)
	}
	return nil
}

// CheckConfig reports the first thing wrong with c, or nil. Version is not looked at.
func CheckConfig(c Config) error {
	if len(c.Entities) == 0 {
		return invalid("served_entities is empty: name at least one model")
	}
	if len(c.Entities) > MaxEntities {
		return invalid("%d served entities; at most %d are allowed", len(c.Entities), MaxEntities)
	}
	var names []string
	for _, e := range c.Entities {
		if err := checkEntity(e); err != nil {
			return err
		}
		if slices.Contains(names, e.Name) {
			return invalid("two served entities are called %q; names must be unique", e.Name)
		}
		names = append(names, e.Name)
	}
	return checkSplits(c.Splits, names)
}

func checkEntity(e Entity) error {
	if !entityRE.MatchString(e.Name) {
		return invalid("served entity name %.80q must match %s", e.Name, entityRE)
	}
	switch {
	case e.Engine == "custom" && e.Command == "":
		return invalid("served entity %q: engine custom needs a command", e.Name)
	case e.Engine == "custom" && !strings.HasPrefix(e.Health, "/"):
		return invalid("served entity %q: engine custom needs a health path that starts with /", e.Name)
	case e.Engine != "custom" && e.Command != "":
		return invalid("served entity %q: a command goes with engine custom, not %q", e.Name, e.Engine)
	case e.Engine != "custom" && e.Model == "":
		return invalid("served entity %q names no model", e.Name)
	case !slices.Contains(Engines, e.Engine):
		return invalid("served entity %q: unknown engine %q; known are %s", e.Name, e.Engine, strings.Join(Engines, ", "))
	case e.Scale.Min < 0 || e.Scale.Max < 0:
		return invalid("served entity %q: replica bounds must not be negative", e.Name)
	case e.Scale.Max > 0 && e.Scale.Min > e.Scale.Max:
		return invalid("served entity %q: min %d is more than max %d", e.Name, e.Scale.Min, e.Scale.Max)
	case len(e.Vars) > MaxVars:
		return invalid("served entity %q has %d environment variables; at most %d are allowed", e.Name, len(e.Vars), MaxVars)
	}
	for k, v := range e.Vars {
		if err := checkVar(k, v); err != nil {
			return fmt.Errorf("served entity %q: %w", e.Name, err)
		}
	}
	return nil
}

// Engines are the engines a user may name.
var Engines = []string{"auto", "python", "native", "mlflow", "custom"}

var (
	entityRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	varRE    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// reservedVars change which code a process runs, or are ours to set.
var reservedVars = []string{"PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_PRELOAD", "LD_LIBRARY_PATH",
	"LD_AUDIT", "DYLD_INSERT_LIBRARIES", "HOME", "TMPDIR", "PORT"}

func checkVar(name, value string) error {
	switch {
	case !varRE.MatchString(name):
		return invalid("environment variable name %.80q must match %s", name, varRE)
	case slices.Contains(reservedVars, name) || strings.HasPrefix(name, "LOADLINE_"):
		return invalid("environment variable %s is reserved", name)
	case len(value) > MaxVarBytes:
		return invalid("environment variable %s is %d bytes long; at most %d are allowed", name, len(value), MaxVarBytes)
	case strings.ContainsRune(value, 0):
		return invalid("environment variable %s holds a NUL byte", name)
	}
	return nil
}

func checkSplits(splits []Split, names []string) error {
	sum := 0
	var seen []string
	for _, s := range splits {
		switch {
		case !slices.Contains(names, s.Entity):
			return invalid("traffic goes to %q, which is not served; served are %s", s.Entity, strings.Join(names, ", "))
		case slices.Contains(seen, s.Entity):
			return invalid("traffic names %q twice", s.Entity)
		case s.Percent < 0 || s.Percent > 100:
			return invalid("traffic to %q is %d %%; it must be 0 to 100", s.Entity, s.Percent)
		}
		seen = append(seen, s.Entity)
		sum += s.Percent
	}
	if sum != 100 {
		return invalid("traffic percentages add up to %d (%s); they must add up to 100", sum, shares(splits))
	}
	return nil
}

func shares(splits []Split) string {
	var parts []string
	for _, s := range splits {
		parts = append(parts, fmt.Sprintf("%s=%d", s.Entity, s.Percent))
	}
	return strings.Join(parts, ", ")
}

func invalid(format string, args ...any) error {
	return &Error{Kind: Invalid, Err: fmt.Errorf(format, args...)}
}
