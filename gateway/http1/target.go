package http1

import "bytes"

// target reads the request target into Path and Query.
func (h *Head) target(t []byte) *Refusal {
	if t[0] != '/' {
		var refusal *Refusal
		if t, refusal = h.absolute(t); refusal != nil {
			return refusal
		}
	}
	path, q, _ := bytes.Cut(t, []byte{'?'})
	if !all(q, query) || hasNUL(q) {
		return errQuery
	}
	if refusal := checkPath(path); refusal != nil {
		return refusal
	}
	h.Path, h.Query = path, q
	return nil
}

// absolute takes the authority off a target that is a whole URL, which must be
// the one Host names.
func (h *Head) absolute(t []byte) ([]byte, *Refusal) {
	scheme, rest, ok := bytes.Cut(t, []byte("://"))
	if !ok || !bytes.EqualFold(scheme, []byte("http")) && !bytes.EqualFold(scheme, []byte("https")) {
		return nil, errTarget
	}
	slash := bytes.IndexByte(rest, '/')
	if slash < 0 {
		return nil, errTarget
	}
	if !bytes.EqualFold(rest[:slash], h.Host) {
		return nil, errForeign
	}
	return rest[slash:], nil
}

// checkPath refuses what programs behind us might read as another path: an
// escaped or plain "..", an empty segment, NUL, a backslash, a broken escape.
func checkPath(p []byte) *Refusal {
	// A segment is watched only as far as it takes to know whether it is
	// empty, "." or "..".
	length, dots := 0, 0
	for i := 1; i < len(p); i++ {
		c := p[i]
		if class[c]&pchar == 0 {
			return errPath
		}
		if c == '%' {
			var ok bool
			if c, ok = unescape(p[i:]); !ok || c < 0x20 || c == 0x7f {
				return errPath
			}
			i += 2
		}
		switch {
		case c == '/' || c == '\\':
			if length == 0 || dots == length && length <= 2 {
				return errDots
			}
			length, dots = 0, 0
			continue
		case c == '.':
			dots++
		}
		length++
	}
	if length > 0 && dots == length && length <= 2 {
		return errDots
	}
	return nil
}

func hasNUL(q []byte) bool {
	return bytes.Contains(q, []byte("%00"))
}

// unescape reads "%xx" at the start of s.
func unescape(s []byte) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, ok1 := hexDigit(s[1])
	lo, ok2 := hexDigit(s[2])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// isHost reports whether s is a host name or address, with or without a port.
func isHost(s []byte) bool {
	if len(s) > 262 {
		return false
	}
	name, port := s, []byte(nil)
	if s[0] == '[' {
		end := bytes.IndexByte(s, ']')
		if end < 3 {
			return false
		}
		for _, c := range s[1:end] {
			if _, hex := hexDigit(c); !hex && c != ':' && c != '.' {
				return false
			}
		}
		if end+1 == len(s) {
			return true
		}
		if s[end+1] != ':' {
			return false
		}
		name, port = nil, s[end+2:]
	} else if colon := bytes.IndexByte(s, ':'); colon >= 0 {
		name, port = s[:colon], s[colon+1:]
		if len(name) == 0 {
			return false
		}
	}
	if port == nil {
		return all(name, host)
	}
	n, ok := number(port)
	return ok && n <= 65535 && len(port) <= 5 && all(name, host)
}
