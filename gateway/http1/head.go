package http1

import "bytes"

// A Field is one header field. The name is in lower case.
type Field struct{ Name, Value []byte }

// A Head is what a request says before its body. Its slices point into the
// buffer given to [Head.Read]. The zero value is ready for use; one Head serves
// a connection for life.
type Head struct {
	Method string
	Path   []byte // begins with "/"; still escaped
	Query  []byte // without the "?"; empty when there is none
	Host   []byte
	Minor  int // of HTTP/1.x

	Length   int64 // bytes of the body; unknown (-1) when Chunked
	Chunked  bool
	Close    bool // nothing may follow this request on its connection
	Continue bool // the client waits for "100 Continue" before it sends the body

	// Fields are the end-to-end fields in the order they came, without Host,
	// Content-Length, and whatever concerns this connection only.
	Fields []Field

	// Dropped counts fields left out because their name holds an underscore:
	// behind a gateway "x_user" and "x-user" are one name.
	Dropped int

	hops  [8][]byte // what Connection names, beyond what is removed anyway
	nhops int

	ends    [MaxFields + 2]uint16 // where each line ends: the place of its CR
	lines   int
	begin   int // of the line being looked for
	scanned int // bytes that hold no end of a line that is not in ends
}

// Reset forgets everything, for the next request.
func (h *Head) Reset() {
	fields := h.Fields[:0]
	h.Method, h.Path, h.Query, h.Host = "", nil, nil, nil
	h.Minor, h.Length, h.Dropped, h.nhops = 0, 0, 0, 0
	h.Chunked, h.Close, h.Continue = false, false, false
	h.lines, h.begin, h.scanned = 0, 0, 0
	h.Fields = fields
}

// Field returns the value of the first field of that name (in lower case), and
// how many there are.
func (h *Head) Field(name string) (value []byte, count int) {
	for i := range h.Fields {
		if string(h.Fields[i].Name) == name {
			if count == 0 {
				value = h.Fields[i].Value
			}
			count++
		}
	}
	return value, count
}

// Read looks for a whole head at the start of buf and returns its length. Zero
// says that more bytes are needed: the next call gets the same bytes and more.
// Field names in buf are put into lower case.
func (h *Head) Read(buf []byte) (int, *Refusal) {
	n, refusal := h.scan(buf)
	if n == 0 || refusal != nil {
		return 0, refusal
	}
	if refusal := h.parse(buf); refusal != nil {
		return 0, refusal
	}
	return n, nil
}

// scan finds the ends of the lines, and with the empty one the end of the head.
func (h *Head) scan(buf []byte) (int, *Refusal) {
	if len(buf) >= 2 && buf[0] == 0x16 && buf[1] == 3 {
		return 0, errTLS
	}
	for {
		i := bytes.IndexByte(buf[h.scanned:], '\n')
		if i < 0 {
			h.scanned = len(buf)
			return 0, h.tooLong(len(buf))
		}
		i += h.scanned
		h.scanned = i + 1
		if refusal := h.tooLong(i + 1); refusal != nil {
			return 0, refusal
		}
		switch {
		case i == h.begin || buf[i-1] != '\r':
			return 0, errBareLF
		case i-1 == h.begin && h.lines == 0:
			return 0, errEmptyLine
		case i-1 == h.begin:
			return i + 1, nil
		case h.lines > MaxFields:
			return 0, errFields
		}
		h.ends[h.lines] = uint16(i - 1)
		h.lines++
		h.begin = i + 1
	}
}

// tooLong judges a head of which n bytes are there.
func (h *Head) tooLong(n int) *Refusal {
	// A method and a version take at most 32 bytes, blanks and all.
	if h.lines == 0 && n > MaxTarget+32 {
		return errLong
	}
	if n > MaxHead {
		return errHead
	}
	return nil
}

func (h *Head) parse(buf []byte) *Refusal {
	target, refusal := h.requestLine(buf[:h.ends[0]])
	if refusal != nil {
		return refusal
	}
	f := framing{length: -1}
	for i := 1; i < h.lines; i++ {
		if refusal := h.field(buf[h.ends[i-1]+2:h.ends[i]], &f); refusal != nil {
			return refusal
		}
	}
	if refusal := h.frame(&f); refusal != nil {
		return refusal
	}
	if refusal := h.target(target); refusal != nil {
		return refusal
	}
	return h.dropHops()
}

func (h *Head) requestLine(line []byte) ([]byte, *Refusal) {
	method, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return nil, errLine
	}
	target, version, ok := bytes.Cut(rest, []byte{' '})
	if !ok || len(target) == 0 {
		return nil, errLine
	}
	var refusal *Refusal
	if h.Method, refusal = knownMethod(method); refusal != nil {
		return nil, refusal
	}
	switch {
	case string(version) == "HTTP/1.1":
		h.Minor = 1
	case string(version) == "HTTP/1.0":
		h.Minor = 0
	case len(version) == 8 && bytes.HasPrefix(version, []byte("HTTP/")) && version[6] == '.':
		return nil, errVersion
	default:
		return nil, errLine
	}
	if len(target) > MaxTarget {
		return nil, errLong
	}
	return target, nil
}

func knownMethod(m []byte) (string, *Refusal) {
	switch string(m) {
	case "GET":
		return "GET", nil
	case "POST":
		return "POST", nil
	case "PUT":
		return "PUT", nil
	case "HEAD":
		return "HEAD", nil
	case "PATCH":
		return "PATCH", nil
	case "DELETE":
		return "DELETE", nil
	case "OPTIONS":
		return "OPTIONS", nil
	case "CONNECT", "PRI", "TRACE":
		return "", errTunnel // the first two leave HTTP/1.1, the third echoes credentials
	}
	if len(m) == 0 || !all(m, token) {
		return "", errLine
	}
	return "", errMethod
}

// framing collects what decides where the body ends, and who is meant.
type framing struct {
	length           int64
	lengths, codings int
	hosts            int
	close, keep      bool
	expects          int
}

// field reads one header line.
func (h *Head) field(line []byte, f *framing) *Refusal {
	if line[0] == ' ' || line[0] == '\t' {
		return errFold
	}
	colon, under := -1, false
	for i, c := range line {
		if c == ':' {
			colon = i
			break
		}
		if class[c]&token == 0 {
			return errName
		}
		under = under || c == '_'
		line[i] = lower[c]
	}
	if colon < 0 {
		return errNoColon
	}
	if colon == 0 {
		return errName
	}
	name, value := line[:colon], trim(line[colon+1:])
	if !all(value, text) {
		return errValue
	}
	if under {
		if shadows(name) {
			return errShadow
		}
		h.Dropped++
		return nil
	}
	return h.keep(name, value, f)
}

// keep sorts a field into what concerns framing and what reaches the end.
func (h *Head) keep(name, value []byte, f *framing) *Refusal {
	switch string(name) {
	case "host":
		f.hosts++
		h.Host = value
	case "content-length":
		f.lengths++
		n, ok := number(value)
		if !ok {
			return errLength
		}
		f.length = n
	case "transfer-encoding":
		f.codings++
		if !bytes.EqualFold(value, []byte("chunked")) {
			return errCoding
		}
	case "expect":
		f.expects++
		if f.expects > 1 || !bytes.EqualFold(value, []byte("100-continue")) {
			return errExpect
		}
	case "connection":
		return h.connection(value, f)
	case "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
		"upgrade", "http2-settings":
		// Between the client and this connection only.
	default:
		h.Fields = append(h.Fields, Field{name, value})
	}
	return nil
}

func number(s []byte) (int64, bool) {
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func (h *Head) connection(value []byte, f *framing) *Refusal {
	for rest, more := value, true; more; {
		var option []byte
		option, rest, more = bytes.Cut(rest, []byte{','})
		option = trim(option)
		if !all(option, token) {
			return errConnection
		}
		for i, c := range option {
			option[i] = lower[c]
		}
		switch string(option) {
		case "", "upgrade", "te", "keep-alive", "http2-settings":
			f.keep = f.keep || string(option) == "keep-alive"
		case "close":
			f.close = true
		default:
			if reserved(option) {
				return errHop
			}
			if h.nhops == len(h.hops) {
				return errConnection
			}
			h.hops[h.nhops] = option
			h.nhops++
		}
	}
	return nil
}

// dropHops removes the fields that Connection named.
func (h *Head) dropHops() *Refusal {
	if h.nhops == 0 {
		return nil
	}
	kept := h.Fields[:0]
next:
	for _, f := range h.Fields {
		for _, hop := range h.hops[:h.nhops] {
			if bytes.Equal(f.Name, hop) {
				continue next
			}
		}
		kept = append(kept, f)
	}
	h.Fields = kept
	return nil
}

// frame decides where the body ends.
func (h *Head) frame(f *framing) *Refusal {
	switch {
	case f.hosts == 0 || f.hosts == 1 && len(h.Host) == 0:
		return errNoHost
	case f.hosts > 1:
		return errTwoHosts
	case !isHost(h.Host):
		return errHost
	case f.lengths > 0 && f.codings > 0:
		return errBoth
	case f.lengths > 1:
		return errTwoLengths
	case f.codings > 1:
		return errTwoCodings
	case f.codings > 0 && h.Minor == 0:
		return errOldCoding
	}
	h.Chunked = f.codings == 1
	h.Length = max(f.length, 0)
	if h.Chunked {
		h.Length = -1
	}
	h.Close = f.close || h.Minor == 0 && !f.keep
	h.Continue = f.expects > 0 && h.Minor == 1 && h.Length != 0
	return nil
}

// shadows reports whether a name with underscores is a reserved one with
// hyphens: what CGI-like programs behind us take for the same.
func shadows(name []byte) bool {
	var hyphens [64]byte
	if len(name) > len(hyphens) {
		return false
	}
	n := copy(hyphens[:], name)
	for i, c := range hyphens[:n] {
		if c == '_' {
			hyphens[i] = '-'
		}
	}
	return reserved(hyphens[:n])
}

// reserved reports whether name says who is asking, for whom, or where the
// request ends.
func reserved(name []byte) bool {
	switch string(name) {
	case "authorization", "proxy-authorization", "cookie", "origin", "host", "content-length", "content-type",
		"content-encoding", "transfer-encoding", "connection", "expect", "trailer", "forwarded",
		"x-real-ip", "x-request-id", "traceparent", "tracestate":
		return true
	}
	return bytes.HasPrefix(name, []byte("x-forwarded-")) || bytes.HasPrefix(name, []byte("x-loadline-")) ||
		bytes.HasPrefix(name, []byte("x-databricks-"))
}
