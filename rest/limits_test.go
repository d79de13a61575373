package rest_test

import (
	"fmt"
	"strings"
	"testing"
)

const own = "/api/loadline/v1/endpoints"

// The list replaces the one before; what is told is what was said, with the
// defaults that the API documents.
func TestRateLimitsAreKeptAndTold(t *testing.T) {
	h := newHouse(t)
	create := strings.Replace(served(""), `"name":"a"`, `"name":"a","rate_limits":[{"calls":15,"key":"user","renewal_period":"minute"}]`, 1)
	if resp, v := h.ask("POST", api, create); resp.StatusCode != 200 {
		t.Fatalf("%d %v", resp.StatusCode, v)
	}
	if got := string(h.raw(api + "/a")); !strings.Contains(got, `"rate_limits"`) || !strings.Contains(got, `"calls": 15`) {
		t.Errorf("an answer without its limits: %s", got)
	}
	for sentence, c := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"a list":              {"PUT", api + "/a/rate-limits", `{"rate_limits":[{"calls":3},{"calls":"7","key":"user","renewal_period":"minute"}]}`, 200, `map[rate_limits:[map[calls:3 key:endpoint renewal_period:minute] map[calls:7 key:user renewal_period:minute]]]`},
		"none removes all":    {"PUT", api + "/a/rate-limits", `{}`, 200, `map[rate_limits:[]]`},
		"a key of ours there": {"PUT", api + "/a/rate-limits", `{"rate_limits":[{"calls":3,"key":"token"}]}`, 400, `rate_limits[0].key is "token"; it must be user or endpoint`},
		"another period":      {"PUT", api + "/a/rate-limits", `{"rate_limits":[{"calls":3,"renewal_period":"hour"}]}`, 400, `must be minute`},
		"no calls":            {"PUT", api + "/a/rate-limits", `{"rate_limits":[{"key":"user"}]}`, 400, `rate_limits[0].calls is missing`},
		"below none":          {"PUT", api + "/a/rate-limits", `{"rate_limits":[{"calls":-1}]}`, 400, `must be 0 to`},
		"two of one kind":     {"PUT", api + "/a/rate-limits", `{"rate_limits":[{"calls":1},{"calls":2}]}`, 400, `two rate limits per endpoint`},
		"nobody's":            {"PUT", api + "/b/rate-limits", `{}`, 404, `RESOURCE_DOES_NOT_EXIST`},
		"ours, by token":      {"PUT", own + "/a/limits", `{"rate_limits":[{"calls":3,"key":"token","renewal_period":"second"}],"max_in_flight":8}`, 200, `max_in_flight:8`},
		"ours, misspelt":      {"PUT", own + "/a/limits", `{"max_inflight":8}`, 400, `did you mean max_in_flight?`},
		"ours, below none":    {"PUT", own + "/a/limits", `{"max_in_flight":-8}`, 400, `max_in_flight is -8`},
		"ours, no such time":  {"PUT", own + "/a/limits", `{"rate_limits":[{"calls":3,"renewal_period":"year"}]}`, 400, `second, minute, hour or day`},
	} {
		t.Run(sentence, func(t *testing.T) {
			resp, v := h.ask(c.method, c.path, c.body)
			if got := fmt.Sprint(v); resp.StatusCode != c.status || !strings.Contains(got, c.says) {
				t.Errorf("%d %s", resp.StatusCode, got)
			}
		})
	}
}

// An update keeps the limits that it does not mention.
func TestUpdateKeepsLimits(t *testing.T) {
	h := newHouse(t)
	deploy := func(body, want string) {
		t.Helper()
		if resp, v := h.ask("PUT", own+"/a", body); resp.StatusCode != 200 || !strings.Contains(fmt.Sprint(v), want) {
			t.Errorf("%d %v, want %s", resp.StatusCode, v, want)
		}
		h.settle("a")
	}
	deploy(`{"model":"models:/m/1","rate_limits":[{"calls":5,"key":"token"}],"max_in_flight":4}`, "map[calls:5 key:token renewal_period:minute]")
	deploy(`{"model":"models:/m/2"}`, "map[calls:5 key:token renewal_period:minute]")
	deploy(`{"model":"models:/m/2","max_in_flight":2}`, "max_in_flight:2")
	deploy(`{"model":"models:/m/2","rate_limits":[]}`, "max_in_flight:2")
	if _, v := h.ask("GET", own+"/a", ""); v["rate_limits"] != nil {
		t.Errorf("limits that were removed are told: %v", v)
	}
}
