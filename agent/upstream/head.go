package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"loadline.dev/loadline/link"
)

// Bounds on what an engine may say before its body.
const (
	maxHead     = 32 << 10 // bytes of a head, and of any line
	maxFields   = 128
	maxInterims = 8 // answers of status 1xx before the real one
	maxTrailer  = 8 << 10
	maxExtra    = 256 // bytes of a chunk's extensions
)

// A head is the head of an answer, understood.
type head struct {
	status int
	header []link.Field // to pass on: without those that concern the connection
	close  bool         // the connection ends with this answer

	// How the body ends: after size bytes, or, with size -1, in chunks or with
	// the connection.
	size    int64
	chunked bool
}

// bad is an answer that is refused; its connection must not be used again.
func bad(format string, args ...any) error {
	return fmt.Errorf("the engine's answer is malformed: "+format, args...)
}

// readHead reads the next real head. method is the request's.
func readHead(in *bufio.Reader, method string) (*head, error) {
	for range maxInterims + 1 {
		h, err := readOne(in, method)
		if err != nil {
			return nil, err
		}
		if h.status >= 200 {
			return h, nil
		}
		if h.status == 101 {
			return nil, bad("it switches protocols, which nobody asked for")
		}
	}
	return nil, bad("more than %d interim answers", maxInterims)
}

func readOne(in *bufio.Reader, method string) (*head, error) {
	budget := maxHead
	line, err := readLine(in, &budget)
	if err != nil {
		return nil, err
	}
	h := &head{size: -1}
	old, err := h.parseStatus(string(line))
	if err != nil {
		return nil, err
	}
	h.close = old
	var named []string // fields that Connection names
	var lengths, codings []string
	for n := 0; ; n++ {
		line, err := readLine(in, &budget)
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			break
		}
		if n == maxFields {
			return nil, bad("more than %d fields", maxFields)
		}
		f, err := parseField(line)
		if err != nil {
			return nil, err
		}
		switch strings.ToLower(f.Name) {
		case "content-length":
			lengths = append(lengths, f.Value)
		case "transfer-encoding":
			codings = append(codings, f.Value)
		case "connection":
			for option := range strings.SplitSeq(f.Value, ",") {
				option = strings.ToLower(strings.TrimSpace(option))
				h.close = h.close || option == "close"
				named = append(named, option)
			}
		case "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "upgrade":
		default:
			h.header = append(h.header, f)
		}
	}
	h.drop(named)
	return h, h.frame(method, old, lengths, codings)
}

// readLine reads to CRLF and takes from the budget.
func readLine(in *bufio.Reader, budget *int) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if *budget -= len(line); *budget < 0 || errors.Is(err, bufio.ErrBufferFull) {
		return nil, bad("its head is larger than %d bytes", maxHead)
	}
	if err != nil {
		return nil, cut(err)
	}
	line, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return nil, bad("a line ends in a bare line feed")
	}
	return line, nil
}

// cut names the end of a connection in the middle of an answer.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the engine closed the connection before its answer was complete")
	}
	return err
}

func (h *head) parseStatus(line string) (old bool, err error) {
	version, rest, _ := strings.Cut(line, " ")
	if version != "HTTP/1.1" && version != "HTTP/1.0" {
		return false, bad("it begins with %.40q, not with an HTTP/1.1 status line", line)
	}
	code, reason, _ := strings.Cut(rest, " ")
	h.status, err = strconv.Atoi(code)
	if err != nil || len(code) != 3 || h.status < 100 || h.status > 599 {
		return false, bad("status %.20q", code)
	}
	if !plain(reason) {
		return false, bad("a control character in the status line")
	}
	return version == "HTTP/1.0", nil
}

func parseField(line []byte) (link.Field, error) {
	name, value, ok := strings.Cut(string(line), ":")
	if !ok || !token(name) {
		return link.Field{}, bad("field name %.40q", name)
	}
	value = strings.Trim(value, " \t")
	if !plain(value) {
		return link.Field{}, bad("a control character in field %s", name)
	}
	return link.Field{Name: name, Value: value}, nil
}

// token says whether s may be a field's name. A folded line is none.
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// drop removes the fields that Connection declared to be its own.
func (h *head) drop(named []string) {
	if len(named) == 0 {
		return
	}
	kept := h.header[:0]
	for _, f := range h.header {
		own := false
		for _, option := range named {
			own = own || strings.EqualFold(f.Name, option)
		}
		if !own {
			kept = append(kept, f)
		}
	}
	h.header = kept
}

// frame settles where the body ends. Only one reading may be possible.
func (h *head) frame(method string, old bool, lengths, codings []string) error {
	switch {
	case len(lengths) > 1:
		return bad("it has two lengths")
	case len(lengths) > 0 && len(codings) > 0:
		return bad("it has both a length and a transfer coding")
	case len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return bad("transfer coding %.40q", strings.Join(codings, ", "))
	case len(codings) == 1 && old:
		return bad("a transfer coding in HTTP/1.0")
	}
	length := int64(-1)
	if len(lengths) == 1 {
		n, err := strconv.ParseUint(lengths[0], 10, 62)
		if err != nil || lengths[0][0] == '+' {
			return bad("length %.40q", lengths[0])
		}
		length = int64(n)
	}
	h.chunked = len(codings) == 1
	switch {
	case h.status < 200:
		if h.chunked || length > 0 {
			return bad("a body after status %d", h.status)
		}
	case method == "HEAD" || h.status == 304:
		h.size, h.chunked = 0, false
	case h.status == 204:
		if h.chunked || length > 0 {
			return bad("a body after status 204")
		}
		h.size = 0
	case h.chunked:
	case length >= 0:
		h.size = length
	default:
		h.close = true // the body ends with the connection
	}
	return nil
}
