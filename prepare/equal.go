package prepare

import (
	"fmt"
	"math"
	"strconv"
)

// Numbers of two answers are equal within either of these.
const (
	relative = 1e-5
	absolute = 1e-6
)

// A difference is where two answers part.
type difference struct {
	row  int // from 0
	text string
}

// Equal says whether two answers are equal as far as the native engine has to
// be: numbers within the tolerance, everything else exactly.
func Equal(got, want []byte) bool {
	_, diff := compareAnswers(got, want)
	return diff == nil
}

// compareAnswers compares the JSON text of two answers: texts, whole numbers
// and structure must be the same, other numbers within the tolerance. It
// reports the first difference, or nil, and whether the bytes are the same.
func compareAnswers(got, want []byte) (same bool, diff *difference) {
	if string(got) == string(want) {
		return true, nil
	}
	row, depth := 0, 0
	for {
		a, restA := token(got)
		b, restB := token(want)
		if string(a) != string(b) && !near(a, b) {
			return false, &difference{row, fmt.Sprintf("%s instead of %s", shown(a), shown(b))}
		}
		if len(a) == 0 {
			return false, nil
		}
		switch a[0] {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ',':
			if depth == 2 { // {"predictions": [row, row
				row++
			}
		}
		got, want = restA, restB
	}
}

// token takes the next one off JSON text; none is the end.
func token(text []byte) (token, rest []byte) {
	for len(text) > 0 && text[0] == ' ' {
		text = text[1:]
	}
	if len(text) == 0 {
		return nil, nil
	}
	n := 1
	switch text[0] {
	case '[', ']', '{', '}', ',', ':':
	case '"':
		for n < len(text) && text[n] != '"' {
			if text[n] == '\\' {
				n++
			}
			n++
		}
		n = min(n+1, len(text))
	default:
		for n < len(text) && !isPunctuation(text[n]) {
			n++
		}
	}
	return text[:n], text[n:]
}

func isPunctuation(c byte) bool {
	switch c {
	case '[', ']', '{', '}', ',', ':', ' ', '"':
		return true
	}
	return false
}

// near says whether two tokens are fractions that are equal within the tolerance.
func near(a, b []byte) bool {
	if isWhole(a) || isWhole(b) {
		return false
	}
	x, errX := strconv.ParseFloat(string(a), 64)
	y, errY := strconv.ParseFloat(string(b), 64)
	if errX != nil || errY != nil || math.IsInf(x, 0) || math.IsInf(y, 0) {
		return false
	}
	d := math.Abs(x - y)
	return d <= absolute || d <= relative*max(math.Abs(x), math.Abs(y))
}

// isWhole knows Python's ints.
func isWhole(token []byte) bool {
	for i, c := range token {
		if (c < '0' || c > '9') && (i > 0 || c != '-') {
			return false
		}
	}
	return true
}

func shown(token []byte) string {
	switch {
	case len(token) == 0:
		return "nothing more"
	case len(token) > 60:
		return string(token[:60]) + "…"
	}
	return string(token)
}
