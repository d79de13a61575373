// Package http1 reads HTTP/1.1 requests strictly: bytes in, heads and body
// bytes out. Whatever two parsers could read in two ways is refused, because a
// gateway that lets it through lends its trust to somebody else's request.
//
// It is pure: it holds no connection, starts nothing, reads no clock and keeps
// no byte it was given beyond the life of the caller's buffer. What it returns
// points into that buffer. It does not write answers, and it does not know
// what any path means.
package http1

import "strconv"

// Limits on one request's head and on the framing of its body.
const (
	MaxHead    = 32 << 10 // bytes of a head, the empty line included
	MaxTarget  = 8 << 10  // bytes of a request target
	MaxFields  = 128      // header fields
	MaxExt     = 1 << 10  // bytes of the extensions of one chunk
	MaxTrailer = 8 << 10  // bytes of all trailers
)

// A Refusal is why a request is not read any further. The connection is of no
// use after it: where the next request would begin is anyone's guess.
type Refusal struct {
	Status int
	Why    string
}

func (r *Refusal) Error() string { return strconv.Itoa(r.Status) + ": " + r.Why }

func bad(why string) *Refusal { return &Refusal{400, why} }

// Refusals, made once: a flood of broken requests must not cost allocations.
var (
	errTLS        = bad("client sent a TLS hello to a plain HTTP port")
	errEmptyLine  = bad("empty line before the request line")
	errBareLF     = bad("line ends in a bare LF")
	errLine       = bad("request line is not METHOD SP TARGET SP VERSION")
	errVersion    = &Refusal{505, "only HTTP/1.1 and HTTP/1.0 are spoken here"}
	errMethod     = &Refusal{501, "unknown method"}
	errTunnel     = &Refusal{405, "method not allowed"}
	errLong       = &Refusal{414, "request target is longer than 8 kB"}
	errHead       = &Refusal{431, "head is larger than 32 kB"}
	errFields     = &Refusal{431, "more than 128 header fields"}
	errExpect     = &Refusal{417, "expectation other than 100-continue"}
	errFold       = bad("folded header field")
	errNoColon    = bad("header field without a colon")
	errName       = bad("header field name is empty or holds a character that is not allowed")
	errValue      = bad("header field value holds a control character")
	errShadow     = bad("header field name with an underscore shadows another field")
	errNoHost     = bad("no Host")
	errTwoHosts   = bad("more than one Host")
	errHost       = bad("Host is not a host")
	errForeign    = bad("target names another host than Host does")
	errTarget     = bad("request target is neither an absolute path nor a URL of this host")
	errPath       = bad("path holds a character that is not allowed, or a broken escape")
	errDots       = bad("path holds an empty, . or .. segment")
	errQuery      = bad("query holds a character that is not allowed")
	errLength     = bad("Content-Length is not a number")
	errTwoLengths = bad("more than one Content-Length")
	errCoding     = bad("Transfer-Encoding other than chunked")
	errTwoCodings = bad("more than one Transfer-Encoding")
	errOldCoding  = bad("Transfer-Encoding in HTTP/1.0")
	errBoth       = bad("both Content-Length and Transfer-Encoding")
	errHop        = bad("Connection names a field that must reach the end")
	errConnection = bad("Connection is not a list of names")

	errChunkSize = bad("chunk size is not a hexadecimal number")
	errChunkLine = bad("chunk line is too long")
	errChunkExt  = bad("chunk extension is broken or too long")
	errChunkExts = bad("more chunk extensions than data")
	errChunkEnd  = bad("chunk does not end where its size says")
	errTrailers  = &Refusal{431, "trailers are too large"}
	errTrailer   = bad("trailer field that belongs in the head")
)

// IsTLS reports whether r refused a TLS hello on a plain port.
func IsTLS(r *Refusal) bool { return r == errTLS }

// Classes of bytes, for the tables below.
const (
	token = 1 << iota // may stand in a field name
	text              // may stand in a field value
	pchar             // may stand in a path (RFC 3986 pchar, "/" and "%")
	query             // may stand in a query
	host              // may stand in a host name
)

// class says where each byte may stand; lower is the byte in lower case.
var class, lower = tables()

func tables() (class, lower [256]uint8) {
	mark := func(bit uint8, chars string) {
		for i := range len(chars) {
			class[chars[i]] |= bit
		}
	}
	const alnum = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	mark(token, alnum+"!#$%&'*+-.^_`|~")
	mark(pchar, alnum+"-._~!$&'()*+,;=:@/%")
	mark(host, alnum+".-_")
	for c := range 256 {
		lower[c] = uint8(c)
		if c >= 'A' && c <= 'Z' {
			lower[c] = uint8(c) + 'a' - 'A'
		}
		if c >= 0x20 && c != 0x7f || c == '\t' {
			class[c] |= text
		}
		if c > 0x20 && c < 0x7f && c != '#' {
			class[c] |= query
		}
	}
	return class, lower
}

func all(s []byte, bit uint8) bool {
	for _, c := range s {
		if class[c]&bit == 0 {
			return false
		}
	}
	return true
}

// trim cuts blanks and tabs off both ends.
func trim(s []byte) []byte {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
