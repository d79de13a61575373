package main

import (
	"testing"

	"loadline.dev/loadline/rest"
)

func TestRateLimitsAreReadAsTheyAreShown(t *testing.T) {
	for text, want := range map[string]string{
		"100/minute": "100/minute:endpoint", "5/second:user": "5/second:user", "0/day:token": "0/day:token", "1000000/hour:endpoint": "1000000/hour:endpoint",
	} {
		v, err := readRate(text)
		if err != nil || v.String() != want {
			t.Errorf("%s is read as %v, %v", text, v, err)
		}
	}
	for _, text := range []string{"", "100", "100/", "/minute", "100/week", "-1/minute", "1.5/minute", "100/minute:", "100/minute:bob", "100 / minute"} {
		if v, err := readRate(text); err == nil {
			t.Errorf("%q is read as %v", text, v)
		}
	}
	line := limitLine(rest.View{InFlight: 8, Rates: []rest.RateView{{Calls: 100, Key: "user", Period: "minute"}}})
	if line != "100/minute:user, 8 in flight" {
		t.Errorf("shown as %s", line)
	}
}
