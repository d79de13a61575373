package scoring

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A lexer walks over JSON text. Each method takes the next thing and says
// whether it was there, well formed, and something on which Python's json
// module and RFC 8259 agree; after a false nothing more may be asked.
type lexer struct {
	b []byte
	i int

	// loose also takes what only Python takes: NaN, Infinity, half surrogate
	// pairs (as U+FFFD).
	loose bool
}

// maxDepth is far below the depth at which Python's parser gives up.
const maxDepth = 64

func (l *lexer) space() {
	for l.i < len(l.b) {
		switch l.b[l.i] {
		case ' ', '\t', '\n', '\r':
			l.i++
		default:
			return
		}
	}
}

// peek returns the next byte that is not blank, or 0 at the end.
func (l *lexer) peek() byte {
	l.space()
	if l.i == len(l.b) {
		return 0
	}
	return l.b[l.i]
}

func (l *lexer) take(c byte) bool {
	if l.peek() != c {
		return false
	}
	l.i++
	return true
}

func (l *lexer) word(w string) bool {
	l.space()
	if !bytes.HasPrefix(l.b[l.i:], []byte(w)) {
		return false
	}
	l.i += len(w)
	return true
}

// more is asked after each element: a comma goes on, end finishes.
func (l *lexer) more(end byte) (goOn, ok bool) {
	switch l.peek() {
	case ',':
		l.i++
		return true, true
	case end:
		l.i++
		return false, true
	}
	return false, false
}

// list takes a list, calling item for each element.
func (l *lexer) list(item func() bool) bool {
	if !l.take('[') {
		return false
	}
	if l.take(']') {
		return true
	}
	for {
		if !item() {
			return false
		}
		if goOn, ok := l.more(']'); !ok || !goOn {
			return ok
		}
	}
}

// object takes an object, calling member for each value; key is valid only
// until it returns.
func (l *lexer) object(member func(key []byte) bool) bool {
	if !l.take('{') {
		return false
	}
	if l.take('}') {
		return true
	}
	for {
		l.space()
		key, ok := l.string()
		if !ok || !l.take(':') || !member(key) {
			return false
		}
		if goOn, ok := l.more('}'); !ok || !goOn {
			return ok
		}
	}
}

// number takes a number and says whether Python makes an int of it.
func (l *lexer) number() (token []byte, whole, ok bool) {
	l.space()
	b, i := l.b, l.i
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && b[i] >= '1' && b[i] <= '9':
		i = digits(b, i)
	default:
		return nil, false, false
	}
	whole = true
	if i < len(b) && b[i] == '.' {
		whole = false
		j := digits(b, i+1)
		if j == i+1 {
			return nil, false, false
		}
		i = j
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		whole = false
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		j := digits(b, i)
		if j == i {
			return nil, false, false
		}
		i = j
	}
	token = b[l.i:i]
	l.i = i
	return token, whole, true
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}

// string takes a string. The result aliases the text when there is no escape in it.
func (l *lexer) string() ([]byte, bool) {
	if l.i == len(l.b) || l.b[l.i] != '"' {
		return nil, false
	}
	start := l.i + 1
	ascii := true
	for i := start; i < len(l.b); i++ {
		switch c := l.b[i]; {
		case c == '"':
			l.i = i + 1
			s := l.b[start:i]
			return s, ascii || utf8.Valid(s)
		case c == '\\':
			return l.escaped(start, i)
		case c < 0x20:
			return nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false
}

// escaped takes the rest of a string whose first escape is at i.
func (l *lexer) escaped(start, i int) ([]byte, bool) {
	out := append(make([]byte, 0, 2*(i-start)+16), l.b[start:i]...)
	for i < len(l.b) {
		switch c := l.b[i]; {
		case c == '"':
			l.i = i + 1
			return out, utf8.Valid(out)
		case c < 0x20:
			return nil, false
		case c != '\\':
			out = append(out, c)
			i++
		default:
			r, n := unescape(l.b[i:])
			if n == 0 && l.loose {
				if _, half := hex4(l.b[i:]); half {
					r, n = utf8.RuneError, 6
				}
			}
			if n == 0 {
				return nil, false
			}
			out = utf8.AppendRune(out, r)
			i += n
		}
	}
	return nil, false
}

var escapes = [256]rune{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unescape reads one escape at the start of b. Zero length is a broken one or
// half a surrogate pair, which Python keeps and UTF-8 cannot.
func unescape(b []byte) (rune, int) {
	if len(b) < 2 {
		return 0, 0
	}
	if b[1] != 'u' {
		if r := escapes[b[1]]; r != 0 {
			return r, 2
		}
		return 0, 0
	}
	r, ok := hex4(b)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	low, ok := hex4(b[6:])
	if !ok {
		return 0, 0
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, 0
	}
	return r, 12
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// skip takes any value.
func (l *lexer) skip(depth int) bool {
	if depth > maxDepth {
		return false
	}
	switch c := l.peek(); c {
	case '{':
		return l.object(func([]byte) bool { return l.skip(depth + 1) })
	case '[':
		return l.list(func() bool { return l.skip(depth + 1) })
	case '"':
		_, ok := l.string()
		return ok
	case 't':
		return l.word("true")
	case 'f':
		return l.word("false")
	case 'n':
		return l.word("null")
	}
	if l.loose && l.special() {
		return true
	}
	token, whole, ok := l.number()
	// Python refuses to read an int of thousands of digits.
	return ok && (!whole || len(token) < 1000)
}

// special takes one of Python's three additions to JSON.
func (l *lexer) special() bool {
	return l.word("NaN") || l.word("Infinity") || l.word("-Infinity")
}

// int64 takes a whole number that fits.
func (l *lexer) int64() (int64, bool) {
	token, whole, ok := l.number()
	if !ok || !whole || len(token) > 20 {
		return 0, false
	}
	v, err := strconv.ParseInt(string(token), 10, 64)
	return v, err == nil
}
