package gateway_test

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
	"loadline.dev/loadline/serving"
)

// byToken lets in whoever shows a token "name.id".
func byToken(c *gateway.Caller) auth.Verdict {
	if c.Token == "" {
		return auth.Verdict{Caller: auth.Anonymous}
	}
	name, id, _ := strings.Cut(strings.Clone(c.Token), ".")
	return auth.Verdict{Caller: auth.Principal{Name: name, Tenant: "default", Scope: auth.Query, Token: id}}
}

func limited(a *agent, q serving.Quota) serving.Route {
	r := iris(a.replica())
	r.Quota = q
	return r
}

func field(answer, name string) string {
	for _, line := range strings.Split(answer, "\r\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return v
		}
	}
	return ""
}

func TestRatesCountWhomTheyName(t *testing.T) {
	for sentence, c := range map[string]struct {
		per  string
		want string // status of a request of each: a.1 a.1 a.2 b.3 anonymous
	}{
		"per endpoint, everybody": {serving.PerEndpoint, "200 429 429 429 429"},
		"per user, by name":       {serving.PerUser, "200 429 429 200 200"},
		"per token, each":         {serving.PerToken, "200 429 200 200 200"},
	} {
		t.Run(sentence, func(t *testing.T) {
			g, addr := start(t, gateway.Config{Judge: byToken})
			g.Publish(limited(startAgent(t, "r", 1, echo), serving.Quota{Rates: []serving.Rate{{Calls: 1, Period: time.Minute, Per: c.per}}}))
			var got []string
			for _, who := range []string{"a.1", "a.1", "a.2", "b.3", ""} {
				fields := []string{last}
				if who != "" {
					fields = append(fields, "Authorization: Bearer "+who)
				}
				got = append(got, talk(t, addr, post(iPath, "{}", fields...))[len("HTTP/1.1 "):][:3])
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
		})
	}
}

// Every answer says what is left; a refusal when to come again. Nothing of the
// body is waited for, and a call that another limit refuses costs nothing.
func TestLimitsAreTold(t *testing.T) {
	g, addr := start(t, gateway.Config{Judge: byToken})
	var served atomic.Int64
	g.Publish(limited(startAgent(t, "r", 1, slowly(0, &served, 200)), serving.Quota{InFlight: 9, Rates: []serving.Rate{
		{Calls: 100, Period: time.Hour, Per: serving.PerEndpoint}, {Calls: 2, Period: time.Minute, Per: serving.PerUser}}}))
	const policy = `"endpoint-hour";q=100;w=3600, "user";q=2;w=60, "in-flight";q=9;qu="concurrent-requests"`
	var answers [4]string
	for i := range answers {
		answers[i] = talk(t, addr, post(iPath, "{}", last))
		if got := field(answers[i], "RateLimit-Policy"); got != policy {
			t.Errorf("policy %s", got)
		}
	}
	for i, want := range []string{`^"endpoint-hour";r=99;t=36, "user";r=1;t=30$`, `^"endpoint-hour";r=98;t=72, "user";r=0;t=60$`,
		`^"endpoint-hour";r=98;t=\d+, "user";r=0;t=60$`, `^"endpoint-hour";r=98;t=\d+, "user";r=0;t=60$`} {
		if got := field(answers[i], "RateLimit"); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("answer %d says %s", i, got)
		}
	}
	if !strings.HasPrefix(answers[3], "HTTP/1.1 429 ") || field(answers[3], "Retry-After") != "30" ||
		!strings.Contains(answers[3], `"REQUEST_LIMIT_EXCEEDED","message":"user anonymous of endpoint iris may make 2 calls a minute, and has"`) {
		t.Errorf("refused with %q", answers[3])
	}
	if served.Load() != 2 {
		t.Errorf("%d reached the model", served.Load())
	}
	// The body never comes.
	if got := talk(t, addr, "POST "+iPath+" HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 429 ") {
		t.Errorf("got %q", got)
	}
	if n := metric(t, g, "loadline_gateway_limited_total"); n != 3 {
		t.Errorf("%v counted", n)
	}
}

func TestLimitsOutliveARoute(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	a := startAgent(t, "r", 1, echo)
	one := serving.Quota{Rates: []serving.Rate{{Calls: 1, Period: time.Minute, Per: serving.PerEndpoint}}}
	r := limited(a, one)
	g.Publish(r)
	ask := func(want string) {
		t.Helper()
		if got := talk(t, addr, post(iPath, "{}", last)); !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("got %.300q, want %s", got, want)
		}
	}
	ask("200")
	r.Generation++
	r.Entities[0].Percent = 99 // any change
	g.Publish(r)
	ask("429")
	r.Quota = serving.Quota{}
	g.Publish(r)
	ask("200")
	if got := talk(t, addr, post(iPath, "{}", last)); field(got, "RateLimit") != "" || field(got, "RateLimit-Policy") != "" {
		t.Errorf("limits are told where there are none: %q", got)
	}
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	hold, inside := make(chan struct{}), make(chan struct{}, 3)
	g.Publish(limited(startAgent(t, "r", 8, func(_ context.Context, in *link.Incoming) {
		inside <- struct{}{}
		<-hold
		in.Reply(&link.Answer{Status: 200, Size: 0})
	}), serving.Quota{InFlight: 2}))
	for range 2 {
		io.WriteString(dial(t, addr), post(iPath, "{}"))
		<-inside
	}
	got := talk(t, addr, post(iPath, "{}", last))
	if !strings.HasPrefix(got, "HTTP/1.1 429 ") || field(got, "Retry-After") != "1" || field(got, "RateLimit-Policy") != `"in-flight";q=2;qu="concurrent-requests"` {
		t.Errorf("got %q", got)
	}
	close(hold)
	eventually(t, func() bool { return strings.HasPrefix(talk(t, addr, post(iPath, "{}", last)), "HTTP/1.1 200 ") })
}

// An endpoint that hangs fills its share of the gateway, in requests and in
// bytes of bodies, and no more: another is answered as before.
func TestAFullEndpointLeavesRoomForOthers(t *testing.T) {
	g, addr := start(t, gateway.Config{Connections: 40, Memory: 4 << 20, MaxBody: 256 << 10})
	hold := make(chan struct{})
	defer close(hold)
	hung := iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) { <-hold }).replica())
	hung.Endpoint, hung.ID = "hung", "2"
	g.Publish(hung)
	g.Publish(iris(startAgent(t, "r", 4, echo).replica()))
	body := strings.Repeat("x", 200<<10)
	refused := 0
	for range 30 {
		nc := dial(t, addr)
		go io.WriteString(nc, post("/serving-endpoints/hung/invocations", body))
		nc.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		buf := make([]byte, 1024)
		if n, _ := nc.Read(buf); n > 0 {
			if !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 503 ") || !strings.Contains(string(buf[:n]), "of endpoint hung fill their share of the gateway") {
				t.Fatalf("got %q", buf[:n])
			}
			refused++
			nc.Close()
		}
	}
	if refused < 10 {
		t.Errorf("%d of 30 refused", refused)
	}
	if got := talk(t, addr, post(iPath, body, last)); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("the other got %.300q", got)
	}
}

// A limit that is met costs no allocation, its fields included.
func BenchmarkLimitedPath(b *testing.B) {
	g, addr := benchGateway(b, gateway.Config{Judge: func(*gateway.Caller) auth.Verdict {
		return auth.Verdict{Caller: auth.Principal{Name: "bob", Tenant: "default", Token: "1"}}
	}})
	g.Publish(limited(startAgent(b, "r", 128, answerSmall), serving.Quota{InFlight: 1000, Rates: []serving.Rate{
		{Calls: 1e9, Period: time.Second, Per: serving.PerEndpoint}, {Calls: 1e9, Period: time.Second, Per: serving.PerUser},
		{Calls: 1e9, Period: time.Second, Per: serving.PerToken}}}))
	b.ReportAllocs()
	b.ResetTimer()
	pound(b, addr, []byte(post(iPath, fmt.Sprintf(`{"inputs": [[%d]]}`, 1))), b.N)
}

// Of several gateways each uses its part of a rate, and what was used up stays
// used up when parts change.
func TestARateIsDealtOutAmongGateways(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(limited(startAgent(t, "r", 1, echo), serving.Quota{Rates: []serving.Rate{{Calls: 32, Period: time.Hour, Per: serving.PerUser}}}))
	ask := func() (passed int) {
		for strings.HasPrefix(talk(t, addr, post(iPath, "{}", last)), "HTTP/1.1 200 ") {
			passed++
		}
		return passed
	}
	g.Share(serving.Calls{Tenant: "default", Endpoint: "iris", Mine: 0, All: 100, Gateways: 2})
	if n := ask(); n != 1 { // half of the sixteenth that is dealt out evenly
		t.Errorf("%d passed where others get the calls", n)
	}
	if c := g.Calls(nil); len(c) != 1 || c[0] != (serving.Calls{Tenant: "default", Endpoint: "iris", Mine: 2}) {
		t.Errorf("told %+v", c)
	}
	g.Share(serving.Calls{Tenant: "default", Endpoint: "iris", Mine: 2, All: 2, Gateways: 1})
	if n := ask(); n != 0 {
		t.Errorf("%d more passed at once when the part grew", n)
	}
	g.Share(serving.Calls{Tenant: "default", Endpoint: "none", Mine: 2, All: 2, Gateways: 1}) // gone meanwhile
}
