package http1

import (
	"bytes"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What makes a request ambiguous is told here a second time, by other means
// than the parser's: text cut at line ends, and regular expressions. A stream
// that the parser lets through and this finds fault with fails the tests.

var (
	requestLineRE = regexp.MustCompile(`^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) ([!-~]+) HTTP/1\.([01])$`)
	fieldRE       = regexp.MustCompile("(?s)^([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\\x00-\\x08\\x0a-\\x1f\\x7f]*)$")
	hostRE        = regexp.MustCompile(`^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	pathRE        = regexp.MustCompile(`^/[A-Za-z0-9._~!$&'()*+,;=:@/%-]*$`)
	chunkRE       = regexp.MustCompile(`^([0-9A-Fa-f]{1,15})(;[^\x00-\x08\x0a-\x1f\x7f]+)?\r\n`)
)

// identity are the fields that nobody but the client itself may speak for.
var identity = []string{"authorization", "cookie", "host", "content-length", "transfer-encoding", "content-type", "connection", "forwarded", "x-real-ip",
	"x-request-id", "traceparent", "x-forwarded-for", "x-forwarded-host", "x-forwarded-user", "x-forwarded-proto", "x-loadline-user", "x-databricks-user"}

// ambiguity says what is ambiguous in the bytes of one request, if anything.
func ambiguity(raw []byte) string {
	head, body, ok := strings.Cut(string(raw), "\r\n\r\n")
	switch {
	case !ok:
		return "no end of the head"
	case len(head)+4 > 32<<10:
		return "head over 32 kB"
	case strings.Count(head, "\r") != strings.Count(head, "\r\n") || strings.Count(head, "\n") != strings.Count(head, "\r\n"):
		return "a line end that is half of one"
	case strings.Contains(head, "\x00"):
		return "NUL"
	}
	lines := strings.Split(head, "\r\n")
	first := requestLineRE.FindStringSubmatch(lines[0])
	if first == nil {
		return "request line"
	}
	if len(first[2]) > 8<<10 {
		return "target over 8 kB"
	}
	if len(lines)-1 > 128 {
		return "more than 128 fields"
	}
	values := map[string][]string{} // by name, with hyphens for underscores
	for _, l := range lines[1:] {
		m := fieldRE.FindStringSubmatch(l)
		if m == nil {
			return "field " + strconv.Quote(l)
		}
		name := strings.ToLower(m[1])
		if plain := strings.ReplaceAll(name, "_", "-"); plain != name {
			if slices.Contains(identity, plain) {
				return "shadow " + name
			}
			continue
		}
		values[name] = append(values[name], strings.Trim(m[2], " \t"))
	}
	for _, why := range []string{misframed(values, first[3]), misdirected(values, first[2]), severed(values)} {
		if why != "" {
			return why
		}
	}
	if len(values["transfer-encoding"]) > 0 {
		return chunkedWrongly(body)
	}
	length := "0"
	if l := values["content-length"]; len(l) > 0 {
		length = l[0]
	}
	if n, err := strconv.Atoi(length); err != nil || n != len(body) {
		return "body is not as long as its length"
	}
	return ""
}

func misframed(values map[string][]string, minor string) string {
	lengths, codings := values["content-length"], values["transfer-encoding"]
	switch {
	case len(lengths) > 0 && len(codings) > 0:
		return "both lengths"
	case len(lengths) > 1 || len(codings) > 1:
		return "a length twice"
	case len(lengths) == 1 && strings.Trim(lengths[0], "0123456789") != "" || len(lengths) == 1 && lengths[0] == "":
		return "Content-Length"
	case len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return "Transfer-Encoding"
	case len(codings) == 1 && minor == "0":
		return "Transfer-Encoding in HTTP/1.0"
	}
	return ""
}

func misdirected(values map[string][]string, target string) string {
	if len(values["host"]) != 1 {
		return "Host"
	}
	host := hostRE.FindStringSubmatch(values["host"][0])
	if host == nil {
		return "Host"
	}
	if port, err := strconv.Atoi(strings.TrimPrefix(host[2], ":")); host[2] != "" && (err != nil || port > 65535) {
		return "port"
	}
	if scheme, rest, ok := strings.Cut(target, "://"); ok && target[0] != '/' {
		host, path, whole := strings.Cut(rest, "/")
		if !whole || !strings.EqualFold(host, values["host"][0]) || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return "another host"
		}
		target = "/" + path
	}
	path, query, _ := strings.Cut(target, "?")
	plain, err := url.PathUnescape(path)
	if err != nil || !pathRE.MatchString(path) || strings.ContainsAny(plain, "\x00\r\n\t\x7f") || strings.Contains(query, "%00") || strings.Contains(query, "#") {
		return "path"
	}
	segments := strings.FieldsFunc(strings.ReplaceAll(plain, `\`, "/"), func(r rune) bool { return r == '/' })
	if strings.Contains(strings.ReplaceAll(plain, `\`, "/"), "//") || slices.Contains(segments, ".") || slices.Contains(segments, "..") {
		return "path that means another"
	}
	return ""
}

// severed looks at what Connection and Expect ask to be done.
func severed(values map[string][]string) string {
	for _, v := range values["connection"] {
		for name := range strings.SplitSeq(v, ",") {
			name = strings.ToLower(strings.Trim(name, " \t"))
			if slices.Contains(identity, name) || strings.ContainsAny(name, " \t\"") {
				return "Connection names " + name
			}
		}
	}
	for _, v := range values["expect"] {
		if !strings.EqualFold(v, "100-continue") {
			return "Expect"
		}
	}
	return ""
}

func chunkedWrongly(body string) string {
	exts, data := 0, 0
	for {
		m := chunkRE.FindStringSubmatch(body)
		if m == nil {
			return "chunk line"
		}
		if exts += len(m[2]); len(m[2]) > 1024 || exts > 1024+data {
			return "chunk extensions"
		}
		size, _ := strconv.ParseUint(m[1], 16, 62)
		data += int(size)
		body = body[len(m[0]):]
		if size == 0 {
			break
		}
		if uint64(len(body)) < size+2 || body[size:size+2] != "\r\n" {
			return "chunk"
		}
		body = body[size+2:]
	}
	for {
		l, rest, ok := strings.Cut(body, "\r\n")
		switch {
		case !ok:
			return "trailers"
		case l == "" && rest == "":
			return ""
		case l == "":
			return "more than the request"
		}
		m := fieldRE.FindStringSubmatch(l)
		if m == nil || slices.Contains(identity, strings.ReplaceAll(strings.ToLower(m[1]), "_", "-")) {
			return "trailer"
		}
		body = rest
	}
}

// The second telling knows every rule of the first: what is refused for being
// ambiguous is found so here, too. Limits and methods are no ambiguities.
func TestAmbiguityIsToldTwice(t *testing.T) {
	for sentence, c := range strange {
		if c.status != 400 || sentence == "Connection names a dozen fields" {
			continue
		}
		if _, ours := exchanges([]byte(c.stream), 1<<20); ours == nil {
			t.Errorf("%s: not refused", sentence)
		}
		if why := ambiguity([]byte(c.stream)); why == "" {
			t.Errorf("%s: only the parser knows", sentence)
		}
	}
	for sentence, c := range legal {
		all, _ := exchanges([]byte(c.stream), 1<<20)
		for _, e := range all {
			if why := ambiguity(bytes.Clone(e.raw)); why != "" {
				t.Errorf("%s: %s in %q", sentence, why, e.raw)
			}
		}
	}
}
