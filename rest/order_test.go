package rest

import (
	"fmt"
	"testing"

	"loadline.dev/loadline/serving"
)

func TestNewcomerTakesItsShareFromTheOthers(t *testing.T) {
	for claim, c := range map[string]struct {
		body string
		old  []serving.Split
		want string
	}{
		"alone it takes everything":            {`{"model":"models:/m/2"}`, []serving.Split{{Entity: "m-1", Percent: 100}}, "[{m-2 100}]"},
		"beside one":                           {`{"model":"models:/m/2","traffic":10}`, []serving.Split{{Entity: "m-1", Percent: 100}}, "[{m-1 90} {m-2 10}]"},
		"beside two, in their proportions":     {`{"model":"models:/m/3","traffic":10}`, []serving.Split{{Entity: "m-1", Percent: 67}, {Entity: "m-2", Percent: 33}}, "[{m-1 61} {m-2 29} {m-3 10}]"},
		"of the same name it gets another":     {`{"model":"models:/m/1","traffic":10}`, []serving.Split{{Entity: "m-1", Percent: 100}}, "[{m-1 90} {m-1-2 10}]"},
		"named after one it takes its place":   {`{"model":"models:/m/9","entity":"b","traffic":20}`, []serving.Split{{Entity: "a", Percent: 50}, {Entity: "b", Percent: 50}}, "[{a 80} {b 20}]"},
		"beside one that had nothing":          {`{"model":"models:/m/9","entity":"b","traffic":20}`, []serving.Split{{Entity: "a", Percent: 0}, {Entity: "b", Percent: 100}}, "[{a 80} {b 20}]"},
		"with all the traffic it stands alone": {`{"model":"models:/m/2","traffic":100}`, []serving.Split{{Entity: "m-1", Percent: 100}}, "[{m-2 100}]"},
	} {
		o, err := parseOrder([]byte(c.body), true)
		if err != nil {
			t.Fatalf("%s: %v", claim, err)
		}
		var old serving.Endpoint
		old.Active.Version, old.Active.Splits = 1, c.old
		for _, s := range c.old {
			old.Active.Entities = append(old.Active.Entities, serving.Entity{Name: s.Entity, Model: "models:/m/1", Engine: "auto"})
		}
		next := o.after(old)
		if got := fmt.Sprint(next.Splits); got != c.want {
			t.Errorf("%s: got %s, want %s", claim, got, c.want)
		}
		if err := serving.CheckConfig(next); err != nil {
			t.Errorf("%s: %v", claim, err)
		}
	}
}

func TestUpdateKeepsTheScaleThatIsNotMentioned(t *testing.T) {
	o, err := parseOrder([]byte(`{"model":"models:/m/2","max":7}`), true)
	if err != nil {
		t.Fatal(err)
	}
	var old serving.Endpoint
	old.Active = serving.Config{Version: 1, Entities: []serving.Entity{{Name: "m-1", Lineage: "m", Scale: serving.Scale{Min: 3, Max: 4}}}}
	if got, want := o.after(old).Entities[0].Scale, (serving.Scale{Min: 3, Max: 7}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := o.first().Entities[0].Scale, (serving.Scale{Min: 1, Max: 7}); got != want {
		t.Errorf("a new one has %+v, want %+v", got, want)
	}
}

func TestNamesOfEntities(t *testing.T) {
	for model, want := range map[string][2]string{
		"models:/fraud/3":              {"fraud-3", "fraud"},
		"models:/fraud@champion":       {"fraud-champion", "fraud"},
		"models:/main.ml.fraud/3":      {"main.ml.fraud-3", "main.ml.fraud"},
		"models:/m-0123":               {"m-0123", "m-0123"},
		"/home/me/my model/":           {"my-model", "/home/me/my model/"},
		"s3://bucket/path/iris":        {"iris", "s3://bucket/path/iris"},
		"runs:/0123/sub/model":         {"model", "runs:/0123/sub/model"},
		"///":                          {"model", "///"},
		"/" + string(make([]byte, 90)): {"model", "/" + string(make([]byte, 90))},
	} {
		if got := [2]string{DefaultName(model, ""), Lineage(model)}; got != want {
			t.Errorf("%q: got %q, want %q", model, got, want)
		}
	}
}
