package rest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/serving"
)

const root = "/api/2.0/serving-endpoints"

// databricks adds the routes of CONTRACT §1 whose subject exists. The others are
// answered 501, so that a client learns that the server knows the question.
func (a *api) databricks(t *router) {
	t.on("POST", root, a.create)
	t.on("GET", root, a.list)
	t.on("GET", root+"/{name}", a.get)
	t.on("DELETE", root+"/{name}", a.delete)
	t.on("PUT", root+"/{name}/config", a.putConfig)
	t.on("PATCH", root+"/{name}/tags", a.patchTags)
	t.on("PUT", root+"/{name}/rate-limits", a.putRateLimits)
	t.on("GET", root+"/{name}/openapi", a.openAPI)
	t.on("GET", root+"/{name}/served-models/{served}/logs", a.logs)
	t.on("GET", root+"/{name}/served-models/{served}/build-logs", a.buildLogs)
	t.on("GET", "/.well-known/databricks-config", a.wellKnown)
	t.on("GET", "/api/2.0/preview/scim/v2/Me", a.me)

	for path, methods := range map[string]string{
		root + "/{name}/ai-gateway":                                    "PUT",
		root + "/{name}/telemetry-config":                              "PATCH",
		root + "/{name}/notifications":                                 "PATCH",
		root + "/{name}/metrics":                                       "GET",
		"/oidc/v1/token":                                               "POST",
		"/oidc/.well-known/oauth-authorization-server":                 "GET",
		"/api/2.0/permissions/serving-endpoints/{id}":                  "GET PUT PATCH",
		"/api/2.0/permissions/serving-endpoints/{id}/permissionLevels": "GET",
	} {
		for method := range strings.FieldsSeq(methods) {
			t.on(method, path, func(http.ResponseWriter, *http.Request) error {
				return absent(method+" "+path, "this version does not have it")
			})
		}
	}
}

func (a *api) checkModels(c serving.Config) error {
	for _, e := range c.Entities {
		if e.Model != "" && a.CheckModel != nil {
			if err := a.CheckModel(e.Model); err != nil {
				return fmt.Errorf("served entity %q: %w", e.Name, err)
			}
		}
	}
	return nil
}

// disk says whether the caller may name folders of the server.
func (a *api) disk(r *http.Request) local { return local(a.Loopback && a.Who(r).Owner) }

func (a *api) create(w http.ResponseWriter, r *http.Request) error {
	data, err := body(w, r)
	if err != nil {
		return err
	}
	e, warnings, err := parseCreate(data, a.disk(r))
	if err != nil {
		return err
	}
	if err := a.checkModels(*e.Pending); err != nil {
		return err
	}
	who := a.Who(r)
	e.Tenant, e.Creator = who.Tenant, who.Name
	made, err := a.Desk.Create(r.Context(), e)
	if err != nil {
		return err
	}
	warn(w, warnings)
	return a.answer(w, r, made)
}

func (a *api) list(w http.ResponseWriter, r *http.Request) error {
	who := a.Who(r)
	endpoints, err := a.Desk.List(r.Context(), who.Tenant)
	if err != nil {
		return err
	}
	list := []object{}
	for _, e := range endpoints {
		status, err := a.status(r.Context(), e)
		if err != nil {
			return err
		}
		list = append(list, summary(e, status, who))
	}
	writeJSON(w, http.StatusOK, map[string]any{"endpoints": list})
	return nil
}

func (a *api) get(w http.ResponseWriter, r *http.Request) error {
	e, err := a.Desk.Get(r.Context(), a.Who(r).Tenant, r.PathValue("name"))
	if err != nil {
		return err
	}
	return a.answer(w, r, e)
}

// answer writes a ServingEndpointDetailed.
func (a *api) answer(w http.ResponseWriter, r *http.Request, e serving.Endpoint) error {
	status, err := a.status(r.Context(), e)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, detailed(e, status, a.Who(r), r.Host))
	return nil
}

// status is what is seen of an endpoint; nothing, of one that has gone since.
func (a *api) status(ctx context.Context, e serving.Endpoint) (serving.Status, error) {
	status, err := a.Desk.Status(ctx, e.Tenant, e.Name)
	if err != nil && serving.KindOf(err) != serving.NotFound {
		return serving.Status{}, err
	}
	return status, nil
}

func (a *api) delete(w http.ResponseWriter, r *http.Request) error {
	if err := a.Desk.Delete(r.Context(), a.Who(r).Tenant, r.PathValue("name")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, object{}) // mlflow.deployments parses even this answer
	return nil
}

func (a *api) putConfig(w http.ResponseWriter, r *http.Request) error {
	data, err := body(w, r)
	if err != nil {
		return err
	}
	d, err := parseConfig("", data, a.disk(r))
	if err != nil {
		return err
	}
	if err := a.checkModels(d.config); err != nil {
		return err
	}
	e, err := a.Desk.SetConfig(r.Context(), a.Who(r).Tenant, r.PathValue("name"), d.config)
	if err != nil {
		return err
	}
	warn(w, d.warnings)
	return a.answer(w, r, e)
}

func (a *api) patchTags(w http.ResponseWriter, r *http.Request) error {
	data, err := body(w, r)
	if err != nil {
		return err
	}
	br := newReader("", data)
	add, remove := br.list("add_tags"), br.texts("delete_tags")
	if br.err != nil {
		return br.err
	}
	tags, err := parseTags("add_tags", add)
	if err != nil {
		return err
	}
	now, err := a.Desk.SetTags(r.Context(), a.Who(r).Tenant, r.PathValue("name"), tags, remove)
	if err != nil {
		return err
	}
	warn(w, br.unknown())
	writeJSON(w, http.StatusOK, map[string]any{"tags": wireTags(now)})
	return nil
}

func (a *api) logs(w http.ResponseWriter, r *http.Request) error {
	out, err := a.Desk.Logs(r.Context(), a.Who(r).Tenant, r.PathValue("name"), LogQuery{Entity: r.PathValue("served")})
	if err != nil {
		return err
	}
	defer out.Close()
	text, err := io.ReadAll(io.LimitReader(out, maxLogs))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"logs": strings.ToValidUTF8(string(text), "\ufffd")})
	return nil
}

// maxLogs bounds an answer that is one JSON string.
const maxLogs = 4 << 20

func (a *api) buildLogs(w http.ResponseWriter, r *http.Request) error {
	text, err := a.Desk.BuildLogs(r.Context(), a.Who(r).Tenant, r.PathValue("name"), r.PathValue("served"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"logs": strings.ToValidUTF8(text, "\ufffd")})
	return nil
}

// wellKnown is asked at every construction of an SDK client; without a
// workspace_id the host would be taken for that of an account.
func (a *api) wellKnown(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"oidc_endpoint": "http://" + r.Host + "/oidc", "workspace_id": a.Workspace})
	return nil
}

func (a *api) me(w http.ResponseWriter, r *http.Request) error {
	who := a.Who(r)
	writeJSON(w, http.StatusOK, map[string]any{"id": who.Name, "userName": who.Name, "displayName": who.Name, "active": true,
		"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:User"}})
	return nil
}

// warn names the fields that were ignored.
func warn(w http.ResponseWriter, unknown []string) {
	if len(unknown) == 0 {
		return
	}
	const shown = 10
	text := strings.Join(unknown[:min(shown, len(unknown))], ", ")
	safe := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	if len(safe) > 500 {
		safe = safe[:500]
	}
	w.Header().Set("X-Loadline-Warning", "unknown fields were ignored: "+safe)
}

// permission names a scope in Databricks' words.
func permission(s auth.Scope) string {
	switch {
	case s >= auth.Manage:
		return "CAN_MANAGE"
	case s == auth.Query:
		return "CAN_QUERY"
	}
	return "CAN_VIEW"
}
