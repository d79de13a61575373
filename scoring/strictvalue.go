package scoring

import (
	"bytes"
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// value judges one value of a column.
func (s *strict) value(row int, name string) bool {
	at, ok := s.byName[name]
	if !ok {
		return s.skip()
	}
	kind := s.fields[at].kind
	c := s.peek()
	start := s.i
	if !s.skip() {
		return false
	}
	token := s.b[start:s.i]
	switch kind {
	case "double", "float", "long", "integer":
		return s.number(row, name, kind, c, token)
	case "boolean":
		if c != 't' && c != 'f' {
			return s.refuse(row, name, "%s is not true or false", short(token))
		}
	case "string":
		if c == 'n' && !s.frame {
			return s.refuse(row, name, "null would become the text \"None\"")
		}
		if c != '"' && c != 'n' {
			return s.refuse(row, name, "%s is not a string", short(token))
		}
	case "binary":
		if s.frame && c == '"' && !isBase64(token) {
			return s.refuse(row, name, "the text is not base64")
		}
	case "datetime":
		return s.datetime(row, name, c, token)
	}
	return true
}

func (s *strict) number(row int, name, kind string, c byte, token []byte) bool {
	whole := kind == "long" || kind == "integer"
	switch {
	case c == 'n' || c == '[' || c == '{' || c == 'N' && whole || c == 'I' && whole:
		return true // missing, or MLflow refuses it
	case c == 't' || c == 'f' || c == '"':
		return s.refuse(row, name, "%s is not a number", short(token))
	case c == 'N' || c == 'I' || bytes.HasSuffix(token, []byte("y")):
		return true // NaN and the infinities are what they say
	}
	v, _ := strconv.ParseFloat(string(token), 64)
	if !whole {
		if math.IsInf(v, 0) || kind == "float" && math.Abs(v) > math.MaxFloat32 {
			return s.refuse(row, name, "%s is out of range for %s and would become infinite", short(token), kind)
		}
		return true
	}
	if v != math.Trunc(v) {
		return s.refuse(row, name, "%s is not a whole number", short(token))
	}
	bits := 64
	if kind == "integer" {
		bits = 32
	}
	limit := math.Ldexp(1, bits-1)
	if bytes.ContainsAny(token, ".eE") {
		s.floats[name] = true
		return v >= -limit && v < limit || s.refuse(row, name, "%s is out of range for %s", short(token), kind)
	}
	n, err := strconv.ParseInt(string(token), 10, bits)
	if err != nil {
		return s.refuse(row, name, "%s is out of range for %s", short(token), kind)
	}
	if n > exactInt || n < -exactInt {
		s.large[name] = row
	}
	return true
}

func (s *strict) datetime(row int, name string, c byte, token []byte) bool {
	switch {
	case c == '-' || c >= '0' && c <= '9':
		return s.refuse(row, name, "%s is a number, which would be taken as nanoseconds since 1970", short(token))
	case c == 't' || c == 'f':
		return s.refuse(row, name, "%s is not a time", short(token))
	case string(token) == `""`:
		return s.refuse(row, name, "the empty text would become a missing time")
	}
	// numpy counts nanoseconds in 64 bits and wraps outside these years.
	if year, err := strconv.Atoi(strings.TrimLeft(string(token[:min(5, len(token))]), `"`)); c == '"' && err == nil && (year < 1678 || year > 2261) {
		return s.refuse(row, name, "%s is outside the years 1678 to 2261 and would become another time", short(token))
	}
	return true
}

// isBase64 judges a string token as Python would decode it if it did not skip
// what is not in the alphabet.
func isBase64(token []byte) bool {
	l := lexer{b: token}
	text, ok := l.string()
	if !ok {
		return false
	}
	_, err := base64.StdEncoding.DecodeString(string(text)) // skips line ends
	return err == nil
}

// short is a token as messages quote it.
func short(token []byte) string {
	if len(token) <= 60 {
		return string(token)
	}
	cut := 57
	for cut > 0 && !utf8.RuneStart(token[cut]) {
		cut--
	}
	return string(token[:cut]) + "…"
}
