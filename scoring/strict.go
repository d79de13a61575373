package scoring

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// A Refusal says what MLflow would have altered without a word.
type Refusal struct {
	Row    int // from 0; -1 when it is not about a row
	Column string
	Why    string
}

func (r *Refusal) Error() string {
	switch {
	case r.Row >= 0 && r.Column != "":
		return fmt.Sprintf("strict: row %d, column %q: %s", r.Row, r.Column, r.Why)
	case r.Row >= 0:
		return fmt.Sprintf("strict: row %d: %s", r.Row, r.Why)
	case r.Column != "":
		return fmt.Sprintf("strict: column %q: %s", r.Column, r.Why)
	}
	return "strict: " + r.Why
}

// Strict reads a JSON body for a signature of named columns and reports the
// first thing that MLflow would alter silently: a value of another JSON type
// than its column's, a number that its column cannot hold, null in a boolean
// column (and, in instances and inputs, in a string column), text that is not
// base64 in a binary column of a frame, a number or an empty text in a datetime
// column, columns, keys twice in one object and params that would be dropped,
// and short rows that would be filled up. It reports nil for what MLflow
// refuses itself, and for bodies it does not judge: LLM bodies, and models with
// type hints, tensors, nameless columns or no schema.
//
// null in a double or float column is a missing value, and rounding to float32
// is what the column's type says; neither is an alteration.
func (r *Reader) Strict(body []byte) *Refusal {
	if r.hints || r.tensor || !r.named || len(r.fields) == 0 {
		return nil
	}
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	s := strict{Reader: r, lexer: lexer{b: body, loose: true}}
	if s.body() || s.refusal != nil {
		return s.refusal
	}
	if bytes.IndexByte(body, 0) >= 0 {
		return &Refusal{Row: -1, Why: "the body is not UTF-8 text, so it cannot be checked"}
	}
	if s.deep {
		return &Refusal{Row: -1, Why: "the body is nested too deeply to be checked"}
	}
	return nil
}

// strict is a body being judged. Its methods report false to stop: because of
// a refusal, or because the text is not JSON, which MLflow says better.
type strict struct {
	*Reader
	lexer
	refusal *Refusal
	deep    bool
	frame   bool // dataframe_split or dataframe_records
	floats  map[string]bool
	large   map[string]int // the row of a whole number that a float cannot hold
}

func (s *strict) refuse(row int, column, format string, args ...any) bool {
	s.refusal = &Refusal{Row: row, Column: column, Why: fmt.Sprintf(format, args...)}
	return false
}

func (s *strict) skip() bool {
	start := s.i
	ok := s.lexer.skip(0)
	if !ok {
		s.deep = nesting(s.b[start:]) > maxDepth
	}
	return ok
}

// nesting is how many brackets are open at most, strings left aside.
func nesting(b []byte) (most int) {
	open, inside := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '\\':
			i++
		case c == '"':
			inside = !inside
		case inside:
		case c == '[' || c == '{':
			open++
			most = max(most, open)
		case c == ']' || c == '}':
			open--
		}
	}
	return most
}

func (s *strict) body() bool {
	// What a body is shows only at its end, so the table is judged last.
	at, end := map[string]int{}, 0
	var keys []string
	ok := s.object(func(key []byte) bool {
		name := string(key)
		if _, twice := at[name]; twice {
			return s.refuse(-1, "", "the key %q is there twice; only the last would be read", name)
		}
		s.space()
		at[name] = s.i
		keys = append(keys, name)
		return s.skip()
	})
	if !ok || s.peek() != 0 || s.i != len(s.b) {
		return false
	}
	end = s.i
	for _, key := range keys {
		switch key {
		case "messages", "prompt", "input":
			return true
		}
	}
	defer func() { s.i = end }()
	for _, key := range keys {
		s.i = at[key]
		if ok := s.part(key); !ok {
			return false
		}
	}
	return true
}

func (s *strict) part(key string) bool {
	s.frame = strings.HasPrefix(key, "dataframe")
	s.floats, s.large = map[string]bool{}, map[string]int{}
	ok := true
	switch key {
	case "params":
		return s.checkParams()
	case "dataframe_split":
		ok = s.peek() != '{' || s.split()
	case "dataframe_records":
		ok = s.peek() != '[' || s.rows()
	case "instances", "inputs":
		switch s.peek() {
		case '{':
			ok = s.byColumn()
		case '[':
			ok = s.rowsOrValues()
		}
	}
	if !ok {
		return false
	}
	for name, row := range s.large {
		if s.floats[name] {
			return s.refuse(row, name, "a whole number beyond 2^53 beside a fraction would lose digits")
		}
	}
	return true
}

// checkParams refuses names that MLflow would drop.
func (s *strict) checkParams() bool {
	if s.peek() == 'n' {
		return true
	}
	if s.peek() != '{' {
		if s.paramNames == nil {
			return s.refuse(-1, "", "params would be dropped: the model has no params schema")
		}
		return true
	}
	return s.object(func(key []byte) bool {
		if !s.paramNames[string(key)] {
			return s.refuse(-1, "", "the param %q would be dropped: it is not in the model's params schema", key)
		}
		return s.skip()
	})
}

func (s *strict) split() bool {
	var names []string
	data := -1
	ok := s.object(func(key []byte) bool {
		switch {
		case string(key) == "columns" && s.peek() == '[':
			return s.list(func() bool {
				if s.peek() != '"' {
					names = append(names, "")
					return s.skip()
				}
				name, ok := s.string()
				names = append(names, string(name))
				return ok
			})
		case string(key) == "data" && s.peek() == '[':
			data = s.i
		}
		return s.skip()
	})
	if !ok {
		return false
	}
	for _, name := range names {
		if !s.known(name, -1) {
			return false
		}
	}
	if data < 0 || len(names) == 0 {
		return true
	}
	end := s.i
	s.i = data
	row := 0
	ok = s.list(func() bool {
		if s.peek() != '[' {
			row++
			return s.skip()
		}
		k := 0
		ok := s.list(func() bool {
			if k++; k > len(names) {
				return s.skip() // MLflow counts too many itself
			}
			return s.value(row, names[k-1])
		})
		if ok && k < len(names) {
			return s.refuse(row, names[k], "the row has %d values for %d columns; the rest would be filled up", k, len(names))
		}
		row++
		return ok
	})
	s.i = end
	return ok
}

// known refuses a column that the signature does not have.
func (s *strict) known(name string, row int) bool {
	if _, ok := s.byName[name]; !ok {
		return s.refuse(row, name, "the signature has no such column, so it would be dropped")
	}
	return true
}

// rows judges a list of objects.
func (s *strict) rows() bool {
	row := 0
	var first []string
	return s.list(func() bool {
		if s.peek() != '{' {
			row++
			return s.skip()
		}
		seen := map[string]bool{}
		ok := s.object(func(key []byte) bool {
			name := string(key)
			if seen[name] {
				return s.refuse(row, name, "the column is there twice; only the last would be read")
			}
			seen[name] = true
			if row == 0 {
				first = append(first, name)
			}
			return s.known(name, row) && s.value(row, name)
		})
		if !ok {
			return false
		}
		for _, name := range first {
			if !seen[name] {
				return s.refuse(row, name, "the value is missing in this row and would be filled up")
			}
		}
		if len(seen) > len(first) {
			for name := range seen {
				if !slices.Contains(first, name) {
					return s.refuse(0, name, "the value is missing in this row and would be filled up")
				}
			}
		}
		row++
		return true
	})
}

// rowsOrValues judges instances or inputs that are a list.
func (s *strict) rowsOrValues() bool {
	start := s.i
	s.i++
	objects := s.peek() == '{'
	s.i = start
	if objects {
		return s.rows()
	}
	if len(s.fields) != 1 {
		return s.skip() // MLflow finds its columns missing
	}
	row := -1
	return s.list(func() bool { row++; return s.value(row, s.fields[0].name) })
}

func (s *strict) byColumn() bool {
	seen := map[string]bool{}
	return s.object(func(key []byte) bool {
		name := string(key)
		if seen[name] {
			return s.refuse(-1, name, "the column is there twice; only the last would be read")
		}
		seen[name] = true
		if !s.known(name, -1) {
			return false
		}
		if s.peek() != '[' {
			return s.value(0, name)
		}
		row := -1
		return s.list(func() bool { row++; return s.value(row, name) })
	})
}
