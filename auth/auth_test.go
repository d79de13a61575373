package auth_test

import (
	"testing"

	"loadline.dev/loadline/auth"
)

func with(scope auth.Scope) auth.Visit {
	return auth.Visit{Host: "127.0.0.1:1876", Token: true, Known: true, Caller: auth.Principal{Name: "t", Scope: scope}}
}

func visit(method, path string, v auth.Visit) auth.Visit {
	v.Method, v.Path = method, path
	if v.Host == "" {
		v.Host = "127.0.0.1:1876"
	}
	return v
}

func TestTheDoorLetsInWhomItShould(t *testing.T) {
	const invoke, config = "/serving-endpoints/iris/invocations", "/api/2.0/serving-endpoints/iris/config"
	inside, outside := auth.Door{Loopback: true}, auth.Door{}
	for claim, c := range map[string]struct {
		door  auth.Door
		visit auth.Visit
		want  auth.Answer
	}{
		"on loopback invocations need no token":              {inside, visit("POST", invoke, auth.Visit{}), auth.Yes},
		"on loopback the root's invocations need none":       {inside, visit("POST", "/invocations", auth.Visit{}), auth.Yes},
		"on loopback health needs no token":                  {inside, visit("GET", "/readyz", auth.Visit{}), auth.Yes},
		"on loopback a list needs a token":                   {inside, visit("GET", "/api/2.0/serving-endpoints", auth.Visit{}), auth.Unknown},
		"on loopback metrics need a token":                   {inside, visit("GET", "/metrics", auth.Visit{}), auth.Unknown},
		"elsewhere invocations need a token":                 {outside, visit("POST", invoke, auth.Visit{}), auth.Unknown},
		"elsewhere health needs a token":                     {outside, visit("GET", "/livez", auth.Visit{}), auth.Unknown},
		"the SDK's first question is answered anywhere":      {outside, visit("GET", "/.well-known/databricks-config", auth.Visit{}), auth.Yes},
		"who asks for a token has none":                      {outside, visit("POST", "/oidc/v1/token", auth.Visit{}), auth.Yes},
		"what only begins alike needs one":                   {inside, visit("POST", "/oidcx", auth.Visit{}), auth.Unknown},
		"a wrong token is refused even where none is needed": {inside, visit("POST", invoke, auth.Visit{Token: true}), auth.Unknown},
		"view may not query":                                 {inside, visit("POST", invoke, with(auth.View)), auth.No},
		"view may look":                                      {inside, visit("GET", config, with(auth.View)), auth.Yes},
		"query may not delete":                               {inside, visit("DELETE", "/api/2.0/serving-endpoints/iris", with(auth.Query)), auth.No},
		"manage may change":                                  {inside, visit("PUT", config, with(auth.Manage)), auth.Yes},
		"manage may not make tokens":                         {inside, visit("POST", "/api/loadline/v1/tokens", with(auth.Manage)), auth.No},
		"admin may make tokens":                              {inside, visit("POST", "/api/loadline/v1/tokens", with(auth.Admin)), auth.Yes},
		"a rebound name is refused":                          {inside, visit("POST", invoke, auth.Visit{Host: "evil.example:1876"}), auth.No},
		"a number with a tail is a name":                     {inside, visit("POST", invoke, auth.Visit{Host: "127.0.0.1.evil.example"}), auth.No},
		"localhost is this machine":                          {inside, visit("POST", invoke, auth.Visit{Host: "localhost:1876"}), auth.Yes},
		"so is ::1":                                          {inside, visit("POST", invoke, auth.Visit{Host: "[::1]:1876"}), auth.Yes},
		"a page of another origin is refused": {inside, visit("POST", invoke,
			auth.Visit{Origin: "https://evil.example"}), auth.No},
		"a page of the null origin is refused":             {inside, visit("POST", invoke, auth.Visit{Origin: "null"}), auth.No},
		"a page of this server is not":                     {inside, visit("POST", invoke, auth.Visit{Origin: "http://127.0.0.1:1876"}), auth.Yes},
		"another port is another origin":                   {inside, visit("POST", invoke, auth.Visit{Origin: "http://127.0.0.1:3000"}), auth.No},
		"a cross-site image is refused":                    {inside, visit("GET", "/livez", auth.Visit{FetchSite: "cross-site"}), auth.No},
		"a path that only begins alike is not invocations": {inside, visit("POST", "/serving-endpoints-x", auth.Visit{}), auth.Unknown},
	} {
		got := c.door.Judge(c.visit)
		if got.Answer != c.want {
			t.Errorf("%s: got %v (%s), want %v", claim, got.Answer, got.Why, c.want)
		}
		if (got.Answer == auth.Yes) != (got.Why == "") {
			t.Errorf("%s: answer %v with reason %q", claim, got.Answer, got.Why)
		}
	}
}

func TestScopesAreReadAsTheyAreWritten(t *testing.T) {
	for _, name := range auth.Scopes {
		s, err := auth.ParseScope(name)
		if err != nil || s.String() != name {
			t.Errorf("%s reads as %v, %v", name, s, err)
		}
	}
	if _, err := auth.ParseScope("none"); err == nil {
		t.Error("none is a scope that can be given")
	}
}
