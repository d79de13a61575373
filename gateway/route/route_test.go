package route

import (
	"math/rand/v2"
	"testing"

	"loadline.dev/loadline/serving"
)

func TestPathsMean(t *testing.T) {
	type want struct {
		kind                   Kind
		endpoint, entity, path string
	}
	cases := map[string]struct{ plain, rooted want }{
		"/serving-endpoints/fraud/invocations":                       {want{Invoke, "fraud", "", "/invocations"}, want{Invoke, "fraud", "", "/invocations"}},
		"/serving-endpoints/fraud/served-models/fraud-2/invocations": {want{Invoke, "fraud", "fraud-2", "/invocations"}, want{Invoke, "fraud", "fraud-2", "/invocations"}},
		"/serving-endpoints/llm/v1/chat/completions":                 {want{Engine, "llm", "", "/v1/chat/completions"}, want{Engine, "llm", "", "/v1/chat/completions"}},
		"/serving-endpoints/llm/served-models/a/v1/models":           {want{Engine, "llm", "a", "/v1/models"}, want{Engine, "llm", "a", "/v1/models"}},
		"/serving-endpoints/llm/":                                    {want{Engine, "llm", "", "/"}, want{Engine, "llm", "", "/"}},
		"/serving-endpoints/fraud/invocations/":                      {want{Engine, "fraud", "", "/invocations/"}, want{Engine, "fraud", "", "/invocations/"}},
		"/serving-endpoints/fraud":                                   {},
		"/serving-endpoints/":                                        {},
		"/serving-endpoints//invocations":                            {},
		"/serving-endpoints/a/served-models//invocations":            {},
		"/serving-endpoints/a/served-models/b":                       {},
		"/api/2.0/serving-endpoints/fraud":                           {},
		"/":                                                          {},
		"/invocations":                                               {want{}, want{Invoke, "", "", "/invocations"}},
		"/ping":                                                      {want{}, want{Ping, "", "", "/ping"}},
		"/health":                                                    {want{}, want{Ping, "", "", "/health"}},
		"/version":                                                   {want{}, want{Version, "", "", "/version"}},
	}
	for path, c := range cases {
		for rooted, w := range map[bool]want{false: c.plain, true: c.rooted} {
			p := Read([]byte(path), rooted)
			if got := (want{p.Kind, string(p.Endpoint), string(p.Entity), string(p.Path)}); got != w {
				t.Errorf("%s (rooted %v): got %v, want %v", path, rooted, got, w)
			}
		}
	}
}

func TestDrawKeepsTheShares(t *testing.T) {
	entities := []serving.RouteEntity{{Percent: 0}, {Percent: 90}, {Percent: 0}, {Percent: 10}}
	dice := rand.New(rand.NewPCG(1, 2))
	count := make([]int, len(entities))
	const n = 100_000
	for range n {
		count[Draw(entities, dice.Uint64())]++
	}
	if count[0] != 0 || count[2] != 0 || count[1] < 89*n/100 || count[1] > 91*n/100 {
		t.Errorf("drew %v", count)
	}
	for _, end := range []uint64{0, 1<<64 - 1} {
		if i := Draw(entities, end); i != 1 && i != 3 {
			t.Errorf("Draw(%d) = %d", end, i)
		}
	}
	if i := Draw([]serving.RouteEntity{{Percent: 0}}, 5); i != -1 {
		t.Errorf("no traffic: %d", i)
	}
	if i := Draw([]serving.RouteEntity{{Percent: 100}}, 5); i != 0 {
		t.Errorf("all traffic to one: %d", i)
	}
}

func TestTablesDoNotChange(t *testing.T) {
	empty := new(Table[int])
	one := empty.With("default", "a", 1)
	two := one.With("default", "a", 2).With("other", "a", 3)
	for _, c := range []struct {
		table  *Table[int]
		tenant string
		want   int
	}{{empty, "default", 0}, {one, "default", 1}, {two, "default", 2}, {two, "other", 3}, {two.Without("default", "a"), "default", 0}, {two.Without("default", "a"), "other", 3}} {
		if got, ok := c.table.Find(c.tenant, []byte("a")); got != c.want || ok != (c.want != 0) {
			t.Errorf("%s: got %d, %v, want %d", c.tenant, got, ok, c.want)
		}
	}
	name := []byte("a")
	if n := testing.AllocsPerRun(100, func() { two.Find("default", name) }); n != 0 {
		t.Errorf("%v allocations a look-up", n)
	}
}
