package gateway_test

import (
	"context"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
)

// A trace that comes in is continued with a span of this hop's; whatever is no
// trace begins another, which nobody has asked to record.
func TestTraceIsContinuedOrBegun(t *testing.T) {
	seen := make(chan [2]string, 1)
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		var got [2]string
		for _, f := range in.Header {
			switch f.Name {
			case "traceparent":
				got[0] = strings.Clone(f.Value)
			case "tracestate":
				got[1] = strings.Clone(f.Value)
			}
		}
		_, _ = io.Copy(io.Discard, in)
		seen <- got
		in.Reply(&link.Answer{Status: 200})
	}).replica()))
	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	shape := regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$`)
	spans := map[string]bool{span: true}
	for sentence, c := range map[string]struct {
		fields []string
		id     string // empty: a new one
		flags  string
		state  string
	}{
		"recorded upstream":            {[]string{"traceparent: 00-" + id + "-" + span + "-01", "tracestate: a=1,b=2"}, id, "01", "a=1,b=2"},
		"not recorded":                 {[]string{"Traceparent: 00-" + id + "-" + span + "-00"}, id, "00", ""},
		"flags of the future":          {[]string{"traceparent: 00-" + id + "-" + span + "-ff"}, id, "ff", ""},
		"a later version":              {[]string{"traceparent: 01-" + id + "-" + span + "-01"}, id, "01", ""},
		"a later and longer version":   {[]string{"traceparent: 01-" + id + "-" + span + "-01-more"}, id, "01", ""},
		"none":                         {nil, "", "00", ""},
		"state alone":                  {[]string{"tracestate: a=1"}, "", "00", ""},
		"no such version":              {[]string{"traceparent: ff-" + id + "-" + span + "-01", "tracestate: a=1"}, "", "00", ""},
		"this version, longer":         {[]string{"traceparent: 00-" + id + "-" + span + "-01-more"}, "", "00", ""},
		"a later version, run on":      {[]string{"traceparent: 01-" + id + "-" + span + "-01more"}, "", "00", ""},
		"a trace of zeros":             {[]string{"traceparent: 00-" + strings.Repeat("0", 32) + "-" + span + "-01"}, "", "00", ""},
		"a span of zeros":              {[]string{"traceparent: 00-" + id + "-0000000000000000-01"}, "", "00", ""},
		"capitals":                     {[]string{"traceparent: 00-" + strings.ToUpper(id) + "-" + span + "-01"}, "", "00", ""},
		"cut short":                    {[]string{"traceparent: 00-" + id + "-" + span}, "", "00", ""},
		"junk of the right length":     {[]string{"traceparent: " + strings.Repeat("g", 55)}, "", "00", ""},
		"two of them":                  {[]string{"traceparent: 00-" + id + "-" + span + "-01", "traceparent: 00-" + id + "-" + span + "-01"}, "", "00", ""},
		"state beyond all bounds":      {[]string{"traceparent: 00-" + id + "-" + span + "-01", "tracestate: a=" + strings.Repeat("x", 10_000)}, id, "01", ""},
		"a request ID that is no hex":  {[]string{"X-Request-Id: mine"}, "", "00", ""},
		"a request ID of another make": {[]string{"X-Request-Id: " + strings.Repeat("z", 32)}, "", "00", ""},
	} {
		answer := talk(t, addr, post(iPath, "{}", append(c.fields, last)...))
		got := <-seen
		parts := shape.FindStringSubmatch(got[0])
		if parts == nil || c.id != "" && parts[1] != c.id || c.id == "" && parts[1] == id || parts[3] != c.flags || got[1] != c.state {
			t.Errorf("%s: the engine sees %q", sentence, got)
			continue
		}
		if spans[parts[2]] || strings.Trim(parts[1], "0") == "" {
			t.Errorf("%s: %q is not a span of this hop's", sentence, got[0])
		}
		spans[parts[2]] = true
		if !strings.Contains(answer, "\r\nX-Request-Id: ") || strings.Contains(strings.ToLower(answer), "traceparent") {
			t.Errorf("%s: answered %q", sentence, answer)
		}
	}
}

// An identifier that is made here names the request and its trace alike, so that
// one is found by the other.
func TestRequestAndTraceShareAnIdentifier(t *testing.T) {
	seen := make(chan string, 1)
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		for _, f := range in.Header {
			if f.Name == "traceparent" {
				seen <- strings.Clone(f.Value)
			}
		}
		in.Reply(&link.Answer{Status: 200})
	}).replica()))
	answer := talk(t, addr, post(iPath, "{}", last))
	if id := strings.Split(<-seen, "-")[1]; !strings.Contains(answer, "\r\nX-Request-Id: "+id+"\r\n") {
		t.Errorf("trace %s, answer %q", id, answer)
	}
}

// Of traces that somebody records, the histograms name one a second; of others none.
func TestHistogramsPointAtRecordedTraces(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(iris(startAgent(t, "r", 1, echo).replica()))
	exemplars := func() (ids []string) {
		families, err := g.Metrics.(*prometheus.Registry).Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, b := range m.GetHistogram().GetBucket() {
					for _, l := range b.GetExemplar().GetLabel() {
						ids = append(ids, l.GetValue())
					}
				}
			}
		}
		return ids
	}
	ask := func(flags string) {
		talk(t, addr, post(iPath, "{}", last, "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"+flags))
	}
	ask("00")
	talk(t, addr, post(iPath, "{}", last))
	eventually(t, func() bool { return metric(t, g, "loadline_gateway_requests_total") == 2 })
	if ids := exemplars(); len(ids) != 0 {
		t.Errorf("unrecorded traces are named: %q", ids)
	}
	ask("01")
	eventually(t, func() bool { return len(exemplars()) == 4 }) // edge, wait, engine, whole
	for _, id := range exemplars() {
		if id != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("named %q", id)
		}
	}
}
