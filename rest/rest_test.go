package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/control"
	"loadline.dev/loadline/platform/fake"
	"loadline.dev/loadline/rest"
	"loadline.dev/loadline/serving"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; read the difference")

// A house is the API before control's desk on a machine of paper.
type house struct {
	t        *testing.T
	url      string
	preparer *fake.Preparer
	who      auth.Principal
}

type router struct{}

func (router) Publish(serving.Route)   {}
func (router) Withdraw(string, string) {}

// desk hands the API's questions to control.
type desk struct{ *control.Desk }

func (d desk) Logs(_ context.Context, _, name string, q rest.LogQuery) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(fmt.Sprintf("log of %s/%s\xff\n", name, q.Entity))), nil
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, preparer: new(fake.Preparer),
		who: auth.Principal{Name: "owner", Tenant: "default", Scope: auth.Admin, Owner: true}}
	store := new(fake.Store)
	quiet := slog.New(slog.DiscardHandler)
	k := control.New(control.Parts{Store: store, Platform: new(fake.Platform), Preparer: h.preparer, Router: router{},
		Drawer: new(fake.Drawer), Log: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = k.Run(ctx) })
	server := httptest.NewServer(rest.New(rest.Config{
		Desk: desk{&control.Desk{Store: store, Keeper: k}}, Log: quiet, Loopback: true, Workspace: "4711", Version: "test",
		Who: func(*http.Request) auth.Principal { return h.who },
	}))
	h.url = server.URL
	t.Cleanup(func() { server.Close(); cancel(); running.Wait() })
	return h
}

// ask sends a request and returns the answer, its body decoded.
func (h *house) ask(method, path, body string) (*http.Response, map[string]any) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	var value map[string]any
	if err := json.Unmarshal(data, &value); err != nil {
		h.t.Fatalf("%s %s: %s is not JSON: %v", method, path, data, err)
	}
	return resp, value
}

// settle waits until no update is under way, as the SDK does.
func (h *house) settle(name string) map[string]any {
	h.t.Helper()
	for {
		resp, v := h.ask("GET", "/api/2.0/serving-endpoints/"+name, "")
		if resp.StatusCode != 200 {
			h.t.Fatalf("get %s: %v", name, v)
		}
		if v["state"].(map[string]any)["config_update"] != "IN_PROGRESS" {
			return v
		}
	}
}

const api = "/api/2.0/serving-endpoints"

var varies = regexp.MustCompile(`"(id|creation_timestamp|last_updated_timestamp|start_time)": ?("[0-9a-f]{32}"|\d{13})`)

// TestAnswersEchoWhatWasSent compares answers with golden files. Each input is a
// CreateServingEndpoint as some client writes it.
func TestAnswersEchoWhatWasSent(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.sent.json")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			h := newHouse(t)
			sent, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			var named struct{ Name string }
			if err := json.Unmarshal(sent, &named); err != nil {
				t.Fatal(err)
			}
			resp, v := h.ask("POST", api, string(sent))
			if resp.StatusCode != 200 {
				t.Fatalf("%d %v", resp.StatusCode, v)
			}
			h.settle(named.Name)
			got := h.raw(api + "/" + named.Name)
			golden := strings.Replace(input, ".sent.json", ".answer.json", 1)
			if *rewrite {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// raw is an answer, indented, without what differs from run to run.
func (h *house) raw(path string) []byte {
	h.t.Helper()
	resp, err := http.Get(h.url + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		h.t.Fatal(err)
	}
	text := varies.ReplaceAllString(b.String(), `"$1": "…"`)
	text = strings.ReplaceAll(text, strings.TrimPrefix(h.url, "http://"), "HOST")
	return append(regexp.MustCompile(`serving-endpoints/[0-9a-f]{32}`).ReplaceAll([]byte(text), []byte("serving-endpoints/…")), '\n')
}

// served builds a create body around one served entity.
func served(fields string) string {
	return `{"name":"a","config":{"served_entities":[{"entity_name":"m","entity_version":"1"` + fields + `}]}}`
}

func TestWhatCannotBeIsRefusedAndSaid(t *testing.T) {
	two := func(traffic string) string {
		return `{"name":"a","config":{"served_entities":[{"entity_name":"m","entity_version":"1"},{"entity_name":"m","entity_version":"2"}],
			"traffic_config":{"routes":[` + traffic + `]}}}`
	}
	vars := func(n int) string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("V%d", i)] = "x"
		}
		text, _ := json.Marshal(m)
		return served(`,"environment_vars":` + string(text))
	}
	for claim, c := range map[string]struct {
		body   string
		status int
		code   string
		says   []string
	}{
		"no JSON":              {`{"name":`, 400, "INVALID_PARAMETER_VALUE", []string{"not JSON", "byte"}},
		"two documents":        {`{"name":"a"}{}`, 400, "INVALID_PARAMETER_VALUE", []string{"more follows"}},
		"a list":               {`[]`, 400, "INVALID_PARAMETER_VALUE", []string{"JSON object"}},
		"deep nesting":         {`{"name":` + strings.Repeat("[", 200000) + `}`, 400, "INVALID_PARAMETER_VALUE", []string{"not JSON"}},
		"no name":              {`{"config":{}}`, 400, "INVALID_PARAMETER_VALUE", []string{serving.NamePattern}},
		"64 characters":        {`{"name":"` + strings.Repeat("a", 64) + `"}`, 400, "INVALID_PARAMETER_VALUE", []string{serving.NamePattern}},
		"dots":                 {`{"name":".."}`, 400, "INVALID_PARAMETER_VALUE", []string{serving.NamePattern}},
		"a device":             {`{"name":"con"}`, 400, "INVALID_PARAMETER_VALUE", []string{"reserved"}},
		"a reserved prefix":    {`{"name":"databricks-x"}`, 400, "INVALID_PARAMETER_VALUE", []string{"reserved"}},
		"10 kB of name":        {`{"name":"` + strings.Repeat("é", 5000) + `"}`, 400, "INVALID_PARAMETER_VALUE", []string{"…"}},
		"a number for a name":  {`{"name":7}`, 400, "INVALID_PARAMETER_VALUE", []string{"name must be a string"}},
		"no config":            {`{"name":"a"}`, 400, "INVALID_PARAMETER_VALUE", []string{"config is missing"}},
		"no entities":          {`{"name":"a","config":{}}`, 400, "INVALID_PARAMETER_VALUE", []string{"served_entities"}},
		"no version":           {`{"name":"a","config":{"served_entities":[{"entity_name":"m"}]}}`, 400, "INVALID_PARAMETER_VALUE", []string{"needs a version"}},
		"99 %":                 {two(`{"served_entity_name":"m-1","traffic_percentage":50},{"served_entity_name":"m-2","traffic_percentage":49}`), 400, "INVALID_PARAMETER_VALUE", []string{"99", "m-1=50", "m-2=49"}},
		"101 %":                {two(`{"served_entity_name":"m-1","traffic_percentage":"101"}`), 400, "INVALID_PARAMETER_VALUE", []string{"101"}},
		"-1 %":                 {two(`{"served_entity_name":"m-1","traffic_percentage":-1}`), 400, "INVALID_PARAMETER_VALUE", []string{"-1"}},
		"33.3 %":               {two(`{"served_entity_name":"m-1","traffic_percentage":33.3}`), 400, "INVALID_PARAMETER_VALUE", []string{"whole number", "33.3"}},
		"a missing entity":     {two(`{"served_entity_name":"m-9","traffic_percentage":100}`), 400, "INVALID_PARAMETER_VALUE", []string{"m-9", "m-1, m-2"}},
		"two and no split":     {`{"name":"a","config":{"served_entities":[{"entity_name":"m","entity_version":"1"},{"entity_name":"m","entity_version":"2"}]}}`, 400, "INVALID_PARAMETER_VALUE", []string{"traffic_config"}},
		"one name twice":       {`{"name":"a","config":{"served_entities":[{"name":"x","entity_name":"m","entity_version":"1"},{"name":"x","entity_name":"m","entity_version":"2"}],"traffic_config":{"routes":[{"served_entity_name":"x","traffic_percentage":100}]}}}`, 400, "INVALID_PARAMETER_VALUE", []string{"unique"}},
		"100 entities":         {`{"name":"a","config":{"served_entities":[` + strings.Repeat(`{},`, 99) + `{}]}}`, 400, "INVALID_PARAMETER_VALUE", []string{"100", "10"}},
		"an unknown size":      {served(`,"workload_size":"Tiny"`), 400, "INVALID_PARAMETER_VALUE", []string{"Tiny", "Small, Medium, Large"}},
		"an unknown type":      {served(`,"workload_type":"TPU"`), 400, "INVALID_PARAMETER_VALUE", []string{"TPU", "GPU_XLARGE_8"}},
		"size and concurrency": {served(`,"workload_size":"Small","min_provisioned_concurrency":4`), 400, "INVALID_PARAMETER_VALUE", []string{"excludes"}},
		"min over max":         {served(`,"min_provisioned_concurrency":8,"max_provisioned_concurrency":4`), 400, "INVALID_PARAMETER_VALUE", []string{"8", "4"}},
		"negative":             {served(`,"min_provisioned_concurrency":-4`), 400, "INVALID_PARAMETER_VALUE", []string{"negative"}},
		"not a multiple of 4":  {served(`,"max_provisioned_concurrency":6`), 400, "INVALID_PARAMETER_VALUE", []string{"multiple of 4"}},
		"31 variables":         {vars(31), 400, "INVALID_PARAMETER_VALUE", []string{"31", "30"}},
		"a name with =":        {served(`,"environment_vars":{"A=B":"x"}`), 400, "INVALID_PARAMETER_VALUE", []string{"A=B"}},
		"a value of 1 MB":      {served(`,"environment_vars":{"A":"` + strings.Repeat("x", 1<<20) + `"}`), 400, "INVALID_PARAMETER_VALUE", []string{"1048576"}},
		"LD_PRELOAD":           {served(`,"environment_vars":{"LD_PRELOAD":"x"}`), 400, "INVALID_PARAMETER_VALUE", []string{"LD_PRELOAD", "reserved"}},
		"a secret":             {served(`,"environment_vars":{"K":"{{secrets/none/key}}"}`), 400, "INVALID_PARAMETER_VALUE", []string{`"key"`, `"none"`}},
		"an external model":    {served(`,"external_model":{"name":"x"}`), 501, "NOT_IMPLEMENTED", []string{"external_model"}},
		"guardrails":           {`{"name":"a","ai_gateway":{"guardrails":{}}}`, 501, "NOT_IMPLEMENTED", []string{"ai_gateway"}},
		"a path for a name":    {`{"name":"a","config":{"served_entities":[{"entity_name":"../x","entity_version":"1"}]}}`, 400, "INVALID_PARAMETER_VALUE", []string{"leave the version out"}},
		"a slash in a name":    {`{"name":"a","config":{"served_entities":[{"entity_name":"x/y","entity_version":"1"}]}}`, 400, "INVALID_PARAMETER_VALUE", []string{"registered model"}},
	} {
		t.Run(claim, func(t *testing.T) {
			h := newHouse(t)
			resp, v := h.ask("POST", api, c.body)
			message, _ := v["message"].(string)
			if resp.StatusCode != c.status || v["error_code"] != c.code {
				t.Errorf("got %d %v, want %d %s", resp.StatusCode, v, c.status, c.code)
			}
			for _, s := range c.says {
				if !strings.Contains(message, s) {
					t.Errorf("%q does not say %q", message, s)
				}
			}
			for _, member := range []string{"detail", "status", "scimType", "error"} {
				if _, there := v[member]; there {
					t.Errorf("%v has %q: the SDK would rewrite the code", v, member)
				}
			}
		})
	}
}

func TestFolderOfTheServerIsForItsOwner(t *testing.T) {
	body := `{"name":"a","config":{"served_entities":[{"entity_name":"/models/iris"}]}}`
	h := newHouse(t)
	h.who.Owner = false
	if resp, v := h.ask("POST", api, body); resp.StatusCode != 403 || v["error_code"] != "PERMISSION_DENIED" {
		t.Errorf("another's: %d %v", resp.StatusCode, v)
	}
	for _, name := range []string{"file:///models/iris", "./iris", "FILE:/x"} {
		resp, v := h.ask("POST", api, strings.Replace(body, "/models/iris", name, 1))
		if resp.StatusCode != 403 {
			t.Errorf("another's %s: %d %v", name, resp.StatusCode, v)
		}
	}
	h.who.Owner = true
	if resp, v := h.ask("POST", api, body); resp.StatusCode != 200 {
		t.Errorf("the owner's: %d %v", resp.StatusCode, v)
	}
}

func TestOfManyCreatesOneWins(t *testing.T) {
	h := newHouse(t)
	counts := map[int]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			resp, err := http.Post(h.url+api, "application/json", strings.NewReader(served("")))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			counts[resp.StatusCode]++
		})
	}
	all.Wait()
	if counts[200] != 1 || counts[409] != 99 {
		t.Errorf("got %v, want one 200 and 99 409", counts)
	}
	if _, v := h.ask("POST", api, served("")); v["error_code"] != "RESOURCE_ALREADY_EXISTS" {
		t.Errorf("got %v", v)
	}
}

func TestLifeOfAnEndpoint(t *testing.T) {
	h := newHouse(t)
	h.preparer.Delay = 50 * time.Millisecond
	_, v := h.ask("POST", api, served(""))
	if state := v["state"].(map[string]any); state["ready"] != "NOT_READY" || state["config_update"] != "IN_PROGRESS" {
		t.Errorf("a new endpoint is %v", state)
	}
	update := `{"served_entities":[{"entity_name":"m","entity_version":"2"}]}`
	if resp, v := h.ask("PUT", api+"/a/config", update); resp.StatusCode != 409 || v["error_code"] != "RESOURCE_CONFLICT" {
		t.Errorf("an update during one: %d %v", resp.StatusCode, v)
	}
	if state := h.settle("a")["state"].(map[string]any); state["ready"] != "READY" {
		t.Errorf("settled it is %v", state)
	}
	if resp, v := h.ask("PUT", api+"/a/config", update); resp.StatusCode != 200 || v["pending_config"] == nil {
		t.Errorf("update: %d %v", resp.StatusCode, v)
	}
	v = h.settle("a")
	if version := v["config"].(map[string]any)["config_version"]; version != 2.0 {
		t.Errorf("config_version is %v", version)
	}
	h.preparer.Break("models:/m/3", errors.New("no such version"))
	h.ask("PUT", api+"/a/config", `{"served_entities":[{"entity_name":"m","entity_version":"3"}]}`)
	v = h.settle("a")
	if state := v["state"].(map[string]any); state["ready"] != "READY" || state["config_update"] != "UPDATE_FAILED" {
		t.Errorf("after a failed update it is %v", state)
	}
	if version := v["config"].(map[string]any)["config_version"]; version != 2.0 {
		t.Errorf("after a failed update config %v serves", version)
	}
	_, v = h.ask("PATCH", api+"/a/tags", `{"add_tags":[{"key":"z","value":"1"},{"key":"b"}],"delete_tags":["none"]}`)
	if got, want := fmt.Sprint(v), "map[tags:[map[key:b] map[key:z value:1]]]"; got != want {
		t.Errorf("tags are %s, want %s", got, want)
	}
	if _, v := h.ask("GET", api+"/a/served-models/m-2/logs", ""); v["logs"] != "log of a/m-2\ufffd\n" {
		t.Errorf("logs are %q", v["logs"])
	}
	if _, v := h.ask("GET", api+"/a/served-models/m-2/build-logs", ""); !strings.Contains(v["logs"].(string), "resolve") {
		t.Errorf("build logs are %q", v["logs"])
	}
	if resp, _ := h.ask("DELETE", api+"/a", ""); resp.StatusCode != 200 {
		t.Errorf("delete: %d", resp.StatusCode)
	}
	for _, path := range []string{"/a", "/never", "/a/served-models/x/logs"} {
		resp, v := h.ask("GET", api+path, "")
		if path != "/a/served-models/x/logs" && (resp.StatusCode != 404 || v["error_code"] != "RESOURCE_DOES_NOT_EXIST") {
			t.Errorf("%s: %d %v", path, resp.StatusCode, v)
		}
	}
}

func TestUnknownFieldsAreIgnoredHereAndRefusedThere(t *testing.T) {
	h := newHouse(t)
	resp, v := h.ask("POST", api, `{"name":"a","colour":"red\u0000\r\nX: y","config":{"served_entities":[{"entity_name":"m","entity_version":"1","wrkload_size":"Small"}]}}`)
	if resp.StatusCode != 200 {
		t.Fatalf("%d %v", resp.StatusCode, v)
	}
	warning := resp.Header.Get("X-Loadline-Warning")
	if !strings.Contains(warning, "colour") || !strings.Contains(warning, "config.served_entities[0].wrkload_size") {
		t.Errorf("the warning is %q", warning)
	}
	resp, v = h.ask("PUT", "/api/loadline/v1/endpoints/b", `{"model":"models:/m/1","engin":"mlflow"}`)
	if message := fmt.Sprint(v["message"]); resp.StatusCode != 400 || !strings.Contains(message, "did you mean engine?") {
		t.Errorf("%d %v", resp.StatusCode, v)
	}
}

func TestRoutesThatAreNotThereSaySoInJSON(t *testing.T) {
	h := newHouse(t)
	for claim, c := range map[string]struct {
		method, path string
		status       int
	}{
		"no such API":               {"GET", "/api/2.0/clusters/list", 404},
		"a wrong method":            {"PATCH", api, 405},
		"an API of a later version": {"PUT", api + "/a/ai-gateway", 501},
		"tokens for applications":   {"POST", "/oidc/v1/token", 501},
		"permissions":               {"GET", "/api/2.0/permissions/serving-endpoints/1", 501},
	} {
		if resp, v := h.ask(c.method, c.path, "{}"); resp.StatusCode != c.status || v["error_code"] == nil {
			t.Errorf("%s: %d %v, want %d", claim, resp.StatusCode, v, c.status)
		}
	}
}

func TestWhatAnSDKAsksFirst(t *testing.T) {
	h := newHouse(t)
	if _, v := h.ask("GET", "/.well-known/databricks-config", ""); v["workspace_id"] != "4711" || v["oidc_endpoint"] != h.url+"/oidc" {
		t.Errorf("databricks-config is %v", v)
	}
	if _, v := h.ask("GET", "/api/2.0/preview/scim/v2/Me", ""); v["userName"] != "owner" {
		t.Errorf("Me is %v", v)
	}
	if _, v := h.ask("GET", api, ""); fmt.Sprint(v) != "map[endpoints:[]]" {
		t.Errorf("an empty list is %v", v)
	}
}
