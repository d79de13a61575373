package rest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/serving"
)

const home = "/api/loadline/v1"

// own adds our own routes: what the command line needs beyond what Databricks'
// API can say. Here an unknown field is an error.
func (a *api) own(t *router) {
	t.on("GET", home+"/endpoints", a.ownList)
	t.on("GET", home+"/endpoints/{name}", a.ownGet)
	t.on("PUT", home+"/endpoints/{name}", a.deploy)
	t.on("DELETE", home+"/endpoints/{name}", a.delete)
	t.on("POST", home+"/endpoints/{name}/rollback", a.rollback)
	t.on("PUT", home+"/endpoints/{name}/traffic", a.traffic)
	t.on("PUT", home+"/endpoints/{name}/scale", a.scale)
	t.on("PUT", home+"/endpoints/{name}/limits", a.limits)
	t.on("GET", home+"/endpoints/{name}/events", a.events)
	t.on("GET", home+"/endpoints/{name}/decisions", a.decisions)
	t.on("GET", home+"/endpoints/{name}/traffic", a.recorded)
	t.on("GET", home+"/endpoints/{name}/logs", a.ownLogs)
	t.on("GET", home+"/endpoints/{name}/example", a.example)
	t.on("GET", home+"/tokens", a.tokens)
	t.on("POST", home+"/tokens", a.createToken)
	t.on("DELETE", home+"/tokens/{id}", a.revokeToken)
	t.on("GET", home+"/version", func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, map[string]string{"version": a.Version})
		return nil
	})
}

func (a *api) ownList(w http.ResponseWriter, r *http.Request) error {
	endpoints, err := a.Desk.List(r.Context(), a.Who(r).Tenant)
	if err != nil {
		return err
	}
	list := []View{}
	for _, e := range endpoints {
		status, err := a.status(r.Context(), e)
		if err != nil {
			return err
		}
		list = append(list, view(e, status))
	}
	writeJSON(w, http.StatusOK, map[string]any{"endpoints": list})
	return nil
}

func (a *api) ownGet(w http.ResponseWriter, r *http.Request) error {
	e, err := a.Desk.Get(r.Context(), a.Who(r).Tenant, r.PathValue("name"))
	if err != nil {
		return err
	}
	return a.show(w, r, e)
}

func (a *api) show(w http.ResponseWriter, r *http.Request, e serving.Endpoint) error {
	status, err := a.status(r.Context(), e)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view(e, status))
	return nil
}

// deploy creates an endpoint, or orders a new config of one that is there.
func (a *api) deploy(w http.ResponseWriter, r *http.Request) error {
	data, err := body(w, r)
	if err != nil {
		return err
	}
	order, err := parseOrder(data, a.disk(r))
	if err != nil {
		return err
	}
	if err := a.checkModels(serving.Config{Entities: []serving.Entity{order.entity}}); err != nil {
		return err
	}
	if order.entity.Command != "" && a.Named != nil && bool(a.disk(r)) {
		order.entity.Reads = a.Named(order.entity.Command)
	}
	who, name := a.Who(r), r.PathValue("name")
	if err := serving.CheckName(name); err != nil {
		return err
	}
	old, err := a.Desk.Get(r.Context(), who.Tenant, name)
	if errors.Is(err, serving.NotFound) {
		if order.percent > 0 && order.percent < 100 {
			return invalid("traffic %d: %s is new, so it gets everything", order.percent, name)
		}
		fresh := serving.Endpoint{Tenant: who.Tenant, Name: name, Creator: who.Name, Pending: order.first()}
		order.quota(&fresh.Quota)
		made, err := a.Desk.Create(r.Context(), fresh)
		if !errors.Is(err, serving.Exists) {
			if err != nil {
				return err
			}
			return a.show(w, r, made)
		}
		// Somebody was faster; then this is an update.
		if old, err = a.Desk.Get(r.Context(), who.Tenant, name); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	e, err := a.Desk.SetConfig(r.Context(), who.Tenant, name, order.after(old))
	if err == nil && order.limited {
		e, err = a.Desk.SetQuota(r.Context(), who.Tenant, name, order.quota)
	}
	if err != nil {
		return err
	}
	return a.show(w, r, e)
}

func (a *api) rollback(w http.ResponseWriter, r *http.Request) error {
	br, err := ownBody(w, r)
	if err != nil {
		return err
	}
	to, _ := br.number("to")
	if err := br.strict(); err != nil {
		return err
	}
	e, err := a.Desk.Rollback(r.Context(), a.Who(r).Tenant, r.PathValue("name"), to)
	if err != nil {
		return err
	}
	return a.show(w, r, e)
}

func (a *api) traffic(w http.ResponseWriter, r *http.Request) error {
	br, err := ownBody(w, r)
	if err != nil {
		return err
	}
	var splits []serving.Split
	for _, m := range br.obj {
		n, _ := br.number(m.Key)
		splits = append(splits, serving.Split{Entity: m.Key, Percent: n})
	}
	if br.err != nil {
		return br.err
	}
	e, err := a.Desk.SetSplits(r.Context(), a.Who(r).Tenant, r.PathValue("name"), splits)
	if err != nil {
		return err
	}
	return a.show(w, r, e)
}

func (a *api) scale(w http.ResponseWriter, r *http.Request) error {
	br, err := ownBody(w, r)
	if err != nil {
		return err
	}
	who, name, entity := a.Who(r), r.PathValue("name"), br.text("entity")
	e, err := a.Desk.Get(r.Context(), who.Tenant, name)
	if err != nil {
		return err
	}
	var scale serving.Scale
	if old, ok := e.Active.Entity(entity); ok {
		scale = old.Scale
	} else if len(e.Active.Entities) == 1 && entity == "" {
		scale = e.Active.Entities[0].Scale
	} else if entity == "" && len(e.Active.Entities) > 1 {
		return invalid("%s serves %d entities; say which one to scale", name, len(e.Active.Entities))
	}
	readScale(br, &scale)
	if err := br.strict(); err != nil {
		return err
	}
	if e, err = a.Desk.SetScale(r.Context(), who.Tenant, name, entity, scale); err != nil {
		return err
	}
	return a.show(w, r, e)
}

func (a *api) events(w http.ResponseWriter, r *http.Request) error {
	events, err := a.Desk.Events(r.Context(), a.Who(r).Tenant, r.PathValue("name"))
	if err != nil {
		return err
	}
	list := []EventView{}
	for _, e := range events {
		list = append(list, EventView{At: e.At, Entity: e.Entity, Kind: e.Kind, Text: e.Text})
	}
	writeJSON(w, http.StatusOK, map[string]any{"events": list})
	return nil
}

// ownLogs streams text, flushed as it comes, so that a reader can follow.
func (a *api) ownLogs(w http.ResponseWriter, r *http.Request) error {
	tenant, name, q := a.Who(r).Tenant, r.PathValue("name"), r.URL.Query()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if q.Get("build") != "" {
		return a.allBuildLogs(w, r, q.Get("entity"))
	}
	follow := q.Get("follow") != ""
	out, err := a.Desk.Logs(r.Context(), tenant, name, LogQuery{Entity: q.Get("entity"), Replica: q.Get("replica"), Follow: follow})
	if err != nil {
		return err
	}
	defer out.Close()
	flush := http.NewResponseController(w)
	if follow {
		_ = flush.Flush() // so that the client knows it is connected
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := out.Read(buf)
		if _, gone := w.Write(buf[:n]); gone != nil || err != nil {
			return nil // the end, or nobody left to tell
		}
		_ = flush.Flush()
	}
}

func (a *api) allBuildLogs(w http.ResponseWriter, r *http.Request, entity string) error {
	tenant, name := a.Who(r).Tenant, r.PathValue("name")
	names := []string{entity}
	if entity == "" {
		e, err := a.Desk.Get(r.Context(), tenant, name)
		if err != nil {
			return err
		}
		names = entityNames(newest(e))
	}
	for _, n := range names {
		text, err := a.Desk.BuildLogs(r.Context(), tenant, name, n)
		if err != nil {
			return err
		}
		io.WriteString(w, text)
	}
	return nil
}

// example answers with the request body that a model brought along.
func (a *api) example(w http.ResponseWriter, r *http.Request) error {
	name, entity := r.PathValue("name"), r.URL.Query().Get("entity")
	status, err := a.Desk.Status(r.Context(), a.Who(r).Tenant, name)
	if err != nil {
		return err
	}
	for _, s := range status.Entities {
		if s.Pending || entity != "" && s.Entity.Name != entity || len(s.Recipe.Example) == 0 {
			continue
		}
		w.Header().Set("Content-Type", s.Recipe.ExampleType)
		w.Header().Set("Content-Length", strconv.Itoa(len(s.Recipe.Example)))
		w.Write(s.Recipe.Example)
		return nil
	}
	return &serving.Error{Op: "example", Subject: name, Kind: serving.NotFound,
		Err: errors.New("the model was saved without one"), Fix: "loadline invoke " + name + " FILE"}
}

// TokenView is a token as the API tells of it.
type TokenView struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Scope   string     `json:"scope"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
	Token   string     `json:"token,omitempty"` // only in the answer that made it
}

func tokenView(t Token) TokenView {
	v := TokenView{ID: t.ID, Name: t.Name, Scope: t.Scope.String(), Created: t.Created}
	if !t.Expires.IsZero() {
		v.Expires = &t.Expires
	}
	return v
}

func (a *api) tokens(w http.ResponseWriter, _ *http.Request) error {
	list := []TokenView{}
	for _, t := range a.Tokens.List() {
		list = append(list, tokenView(t))
	}
	writeJSON(w, http.StatusOK, map[string]any{"tokens": list})
	return nil
}

func (a *api) createToken(w http.ResponseWriter, r *http.Request) error {
	br, err := ownBody(w, r)
	if err != nil {
		return err
	}
	name, scopeName, life := br.text("name"), br.text("scope"), br.duration("life")
	if err := br.strict(); err != nil {
		return err
	}
	scope, err := auth.ParseScope(scopeName)
	if err != nil {
		return invalid("%w", err)
	}
	text, made, err := a.Tokens.Create(r.Context(), name, scope, life)
	if err != nil {
		return err
	}
	v := tokenView(made)
	v.Token = text
	writeJSON(w, http.StatusOK, v)
	return nil
}

func (a *api) revokeToken(w http.ResponseWriter, r *http.Request) error {
	if err := a.Tokens.Revoke(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, object{})
	return nil
}

func ownBody(w http.ResponseWriter, r *http.Request) (*reader, error) {
	data, err := body(w, r)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		data = json.RawMessage("{}")
	}
	br := newReader("", data)
	return br, br.err
}
