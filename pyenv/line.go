package pyenv

import (
	"fmt"
	"regexp"
	"strings"

	"loadline.dev/loadline/serving"
)

// A requirement is one line of a requirements file.
type requirement struct {
	name string // as PyPI compares names; empty for a source or option
	text string
	pin  string // the version after ==, if that is all there is
}

// PEP 508 without URLs; hashes as pip writes them.
var requirementRE = regexp.MustCompile(`^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)` +
	`\s*(?:\[[A-Za-z0-9._,\s-]*\])?` +
	`\s*(\(?\s*(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+(?:\s*,\s*(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+)*\s*,?\s*\)?)?` +
	`\s*(?:;[A-Za-z0-9_.'"<>=!~ ()+*,-]*?)?` +
	`((?:\s+--hash[= ]\s*sha(?:256|384|512):[0-9a-f]+)*)$`)

var pinRE = regexp.MustCompile(`^==\s*([A-Za-z0-9.+!_-]+)$`)

// readLine reads a requirement that names a package of the index. Everything
// else is refused: options and sources that reach elsewhere.
func readLine(text string) (requirement, error) {
	m := requirementRE.FindStringSubmatch(text)
	if m == nil || strings.Contains(strings.TrimSuffix(text, m[3]), "--") {
		return requirement{}, refuse(text)
	}
	r := requirement{name: normal(m[1]), text: text}
	if p := pinRE.FindStringSubmatch(strings.TrimSpace(m[2])); p != nil {
		r.pin = p[1]
	}
	return r, nil
}

// refuse says what kind of line it is that cannot be had.
func refuse(text string) error {
	why := "is not a requirement that pip would read"
	option, _, _ := strings.Cut(strings.ReplaceAll(text, "=", " "), " ")
	switch lower := strings.ToLower(text); {
	case strings.HasPrefix(text, "-"):
		why = fmt.Sprintf("is the option %s, which reaches beyond the package index of this server", option)
	case strings.Contains(lower, "git+") || strings.Contains(lower, "hg+") || strings.Contains(lower, "svn+"):
		why = "reaches into a source repository"
	case strings.Contains(lower, "file:"), strings.HasSuffix(lower, ".whl"), strings.HasSuffix(lower, ".tar.gz"),
		strings.HasPrefix(lower, "."), strings.HasPrefix(lower, "/"), strings.Contains(lower, "@ ."), strings.Contains(lower, "@ /"):
		why = "names a file rather than a package of the index"
	case strings.Contains(lower, "://"):
		why = "names a place of its own rather than a package of the index"
	}
	return &serving.Error{Kind: serving.Invalid, Err: fmt.Errorf("%q %s", shorten(redact(text), 120), why),
		Fix: "log the model with requirements that the package index has"}
}

var separators = regexp.MustCompile(`[-_.]+`)

// normal is a package's name as indexes compare it (PEP 503).
func normal(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}

func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

var credentials = regexp.MustCompile(`://[^/@\s]+@`)

// redact takes passwords out of the addresses in s.
func redact(s string) string {
	return credentials.ReplaceAllString(s, "://***@")
}
