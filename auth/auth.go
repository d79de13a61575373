// Package auth decides whether a caller may do what it asks: which scope a
// route needs, which scope a caller has, and whether a browser was talked into
// asking by a page of somebody else.
//
// It decides with plain values. Who a token belongs to is found out by
// auth/tokens; turning a refusal into an answer is the gateway's business.
package auth

import (
	"fmt"
	"strings"
)

// A Scope is what a caller may do. Each includes those below it.
type Scope uint8

const (
	None   Scope = iota
	View         // see endpoints, their logs and events
	Query        // send invocations
	Manage       // create, change and delete endpoints
	Admin        // make and revoke tokens
)

var scopeText = [...]string{"none", "view", "query", "manage", "admin"}

func (s Scope) String() string { return scopeText[s] }

// Scopes are the names that [ParseScope] knows, weakest first.
var Scopes = scopeText[1:]

// ParseScope turns a name into a scope.
func ParseScope(name string) (Scope, error) {
	for i, text := range scopeText {
		if i > 0 && text == name {
			return Scope(i), nil
		}
	}
	return None, fmt.Errorf("unknown scope %.40q; known are %s", name, strings.Join(Scopes, ", "))
}

// A Principal is whoever asks.
type Principal struct {
	Name   string // "owner", a token's name, or "anonymous"
	Tenant string
	Scope  Scope
	Token  string // the ID of the token that was shown; "" for the owner's and for none
	Owner  bool   // holds the token that the data folder keeps
}

// Anonymous is a caller without a token. What it may do depends on the door.
var Anonymous = Principal{Name: "anonymous", Tenant: "default"}

// A Door is where a request came in.
type Door struct {
	// Loopback says that only this machine can reach the listener: health and
	// invocations then need no token, and a Host of elsewhere is a browser
	// whose name server was rebound.
	Loopback bool
}

// A Visit is what a door sees of a request before its body is read.
type Visit struct {
	Method, Path string
	Host, Origin string // as sent; "" when absent
	FetchSite    string // Sec-Fetch-Site, "" when absent

	// Token says that a credential was presented; Known that it is valid. Caller is
	// then its holder.
	Token, Known bool
	Caller       Principal
}

// A Verdict is what a door says.
type Verdict struct {
	Answer Answer
	Why    string    // a sentence for the caller, unless allowed
	Caller Principal // who is let in
}

// An Answer is yes, or the kind of no.
type Answer uint8

const (
	Yes     Answer = iota
	Unknown        // no valid token: 401
	No             // known and not allowed, or a foreign page: 403
)

// Judge decides about one visit.
func (d Door) Judge(v Visit) Verdict {
	if why := d.foreign(v); why != "" {
		return Verdict{Answer: No, Why: why}
	}
	if v.Token && !v.Known {
		return Verdict{Answer: Unknown, Why: "the token is not valid"}
	}
	if public(v.Path) {
		return Verdict{Caller: caller(v)}
	}
	need := Need(v.Method, v.Path)
	if !v.Token {
		if d.Loopback && (probe(v.Path) || need == Query) {
			return Verdict{Caller: Anonymous}
		}
		return Verdict{Answer: Unknown, Why: "this needs a token: send Authorization: Bearer TOKEN; the owner's is the file 'token' in the server's data folder"}
	}
	if probe(v.Path) || v.Caller.Scope >= need {
		return Verdict{Caller: v.Caller}
	}
	return Verdict{Answer: No, Why: fmt.Sprintf("the token %q has scope %s; this needs %s", v.Caller.Name, v.Caller.Scope, need)}
}

func caller(v Visit) Principal {
	if v.Token {
		return v.Caller
	}
	return Anonymous
}

// Need is the scope that a request needs.
func Need(method, path string) Scope {
	read := method == "GET" || method == "HEAD" || method == "OPTIONS"
	switch {
	case within(path, "/api/loadline/v1/tokens"), within(path, "/api/loadline/v1/gateways"): // gateways see everybody's tokens
		return Admin
	case path == "/invocations" || within(path, "/serving-endpoints"):
		return Query
	case read:
		return View
	}
	return Manage
}

// public routes tell nothing and are asked before a client has read its token.
func public(path string) bool {
	return path == "/.well-known/databricks-config" || within(path, "/oidc")
}

// probe routes say whether the process is well.
func probe(path string) bool {
	switch path {
	case "/livez", "/readyz", "/ping", "/health", "/version":
		return true
	}
	return false
}

func within(path, root string) bool {
	rest, ok := strings.CutPrefix(path, root)
	return ok && (rest == "" || rest[0] == '/')
}

// foreign says why a visit is that of a page or a name from elsewhere, or "".
func (d Door) foreign(v Visit) string {
	host := hostname(v.Host)
	if d.Loopback && !Loopback(host) {
		return fmt.Sprintf("host %.100q is not this machine; use 127.0.0.1 or localhost", v.Host)
	}
	if v.FetchSite == "cross-site" {
		return "a page of another site asked for this; it is refused"
	}
	if v.Origin == "" {
		return ""
	}
	origin := v.Origin
	if _, after, ok := strings.Cut(origin, "://"); ok {
		origin = after
	}
	if !strings.EqualFold(origin, v.Host) {
		return fmt.Sprintf("a page of origin %.100q asked for this; only pages of this server may", v.Origin)
	}
	return ""
}

// Loopback says whether a host name, without its port, means this machine.
func Loopback(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || host == "::1" {
		return true
	}
	rest, ok := strings.CutPrefix(host, "127.")
	if !ok {
		return false
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 {
		return false
	}
	for _, p := range parts {
		if p == "" || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return true
}

// hostname strips port and brackets from a Host.
func hostname(host string) string {
	if inside, ok := strings.CutPrefix(host, "["); ok {
		name, _, _ := strings.Cut(inside, "]")
		return name
	}
	name, _, _ := strings.Cut(host, ":")
	return name
}
