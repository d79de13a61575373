package gateway

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"unsafe"

	"loadline.dev/loadline/auth"
)

// A Caller is what is seen of a client before its body is read. It and its
// texts are valid only until Judge returns; whoever keeps one clones it.
type Caller struct {
	Token  string // of "Authorization: Bearer"; "" when there is none
	Broken bool   // Authorization is there, but no single bearer token

	Method    string
	Path      string // unescaped
	Host      string
	Origin    string // "" when absent
	FetchSite string // Sec-Fetch-Site; "" when absent

	Remote string // address of the other end: "127.0.0.1:50312"
	Secure bool   // over TLS
}

// text views bytes as a string. It changes when they do: for calls that look
// and do not keep.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// judge asks who is there.
func (c *conn) judge() auth.Verdict {
	h := &c.head
	who := &c.caller // kept with the connection: asking must not allocate
	*who = Caller{Method: h.Method, Path: text(h.Path), Host: text(h.Host), Remote: c.remote, Secure: c.secure}
	if bytes.IndexByte(h.Path, '%') >= 0 {
		// The parser let only whole escapes through.
		who.Path, _ = url.PathUnescape(who.Path)
	}
	for _, f := range h.Fields {
		switch string(f.Name) {
		case "authorization":
			token, ok := bearer(f.Value)
			who.Broken = who.Broken || !ok || who.Token != ""
			who.Token = text(token)
		case "origin":
			who.Origin = text(f.Value)
		case "sec-fetch-site":
			who.FetchSite = text(f.Value)
		}
	}
	if who.Broken {
		return auth.Verdict{Answer: auth.Unknown, Why: "Authorization must be one bearer token"}
	}
	return c.g.Judge(who)
}

// bearer reads "Bearer TOKEN".
func bearer(value []byte) ([]byte, bool) {
	const scheme = "bearer "
	if len(value) <= len(scheme) || !bytes.EqualFold(value[:len(scheme)], []byte(scheme)) {
		return nil, false
	}
	return bytes.TrimLeft(value[len(scheme):], " "), true
}

type callerKey struct{}

// Who is the caller of a request that the gateway handed to the API.
func Who(r *http.Request) auth.Principal {
	p, _ := r.Context().Value(callerKey{}).(auth.Principal)
	return p
}

func withCaller(ctx context.Context, p auth.Principal) context.Context {
	return context.WithValue(ctx, callerKey{}, p)
}
