package gateway

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"loadline.dev/loadline/gateway/route"
	"loadline.dev/loadline/link"
)

// chooseID takes the caller's request ID, if it is one, or makes one.
func (c *conn) chooseID() {
	if id, n := c.head.Field("x-request-id"); n == 1 && len(id) > 0 && len(id) <= len(c.id) && safe(id) {
		c.idLen, c.idOurs = copy(c.id[:], id), false
		return
	}
	c.idLen, c.idOurs = traceEnd-traceAt, true
	random(c.id[:c.idLen])
}

// safe reports whether id may be repeated in answers and logs.
func safe(id []byte) bool {
	for _, b := range id {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && strings.IndexByte("-_.:/+=@,~", b) < 0 {
			return false
		}
	}
	return true
}

// Identity belongs to the edge: what a client says of these reaches no engine.
func ofTheEdge(name []byte) bool {
	switch string(name) {
	case "authorization", "x-request-id", "forwarded", "x-real-ip", "x-request-timeout", "traceparent", "tracestate":
		return true
	}
	return bytes.HasPrefix(name, []byte("x-forwarded-")) || bytes.HasPrefix(name, []byte("x-loadline-"))
}

// forEngine prepares the head that the engine gets. It points into the
// connection's buffer and is valid as long as the request is.
func (c *conn) forEngine(p route.Place, raw bool, size int64) *link.Request {
	h := &c.head
	c.fields = c.fields[:0]
	add := func(name, value string) { c.fields = append(c.fields, link.Field{Name: name, Value: value}) }
	for _, f := range h.Fields {
		switch string(f.Name) {
		case "content-type", "content-encoding", "accept":
			add(text(f.Name), text(f.Value))
		default:
			if raw && !ofTheEdge(f.Name) {
				add(text(f.Name), text(f.Value))
			}
		}
	}
	c.trace()
	add("traceparent", text(c.traced.text[:]))
	if len(c.traced.state) > 0 {
		add("tracestate", text(c.traced.state))
	}
	add("x-request-id", text(c.id[:c.idLen]))
	path := text(p.Path)
	if raw {
		add("x-forwarded-host", text(h.Host))
		if len(h.Query) > 0 {
			// Path and query lie one behind the other, with the "?" between.
			path = text(p.Path[:len(p.Path)+1+len(h.Query)])
		}
	}
	c.request = link.Request{Method: h.Method, Path: path, Header: c.fields, Size: size}
	return &c.request
}

// timeout is how long the client gives the request: X-Request-Timeout, in
// seconds ("2.5") or with a unit ("500ms"), and never longer than limit.
func (c *conn) timeout(limit time.Duration) (time.Duration, *fault) {
	v, n := c.head.Field("x-request-timeout")
	if n == 0 {
		return limit, nil
	}
	asked, err := time.ParseDuration(string(v))
	if err != nil {
		var seconds float64
		seconds, err = strconv.ParseFloat(string(v), 64)
		asked = time.Duration(min(seconds, 1e6) * float64(time.Second))
	}
	if err != nil || n > 1 || asked <= 0 {
		return 0, &fault{status: 400, code: "INVALID_PARAMETER_VALUE",
			why: "X-Request-Timeout must be a positive number of seconds, such as 2.5, or carry a unit, such as 500ms"}
	}
	return min(asked, limit), nil
}

// returned reports whether a field of an engine's answer reaches the client.
// Framing and connections are ours; only engines of a user's own may set
// cookies or send clients elsewhere.
func returned(name string, raw bool) bool {
	for _, ours := range [...]string{"connection", "content-length", "transfer-encoding", "keep-alive", "upgrade", "trailer", "te",
		"proxy-connection", "proxy-authenticate", "date", "x-request-id", "served-model-name"} {
		if strings.EqualFold(name, ours) {
			return false
		}
	}
	return raw || !strings.EqualFold(name, "set-cookie") && !strings.EqualFold(name, "location")
}

// soundField reports whether a field of an engine's answer is one: it must not
// be able to begin another line.
func soundField(f link.Field) bool {
	if f.Name == "" || len(f.Name) > 256 {
		return false
	}
	for i := range len(f.Name) {
		if b := f.Name[i]; b <= ' ' || b >= 0x7f || b == ':' {
			return false
		}
	}
	for i := range len(f.Value) {
		if b := f.Value[i]; b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}
