package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/serving"
)

// detailed writes a ServingEndpointDetailed: what was sent, in the order it was
// sent, and the documented defaults; nothing else, so that who compares sees no
// difference.
func detailed(e serving.Endpoint, st serving.Status, who auth.Principal, host string) object {
	o := head(e, st, who)
	sent, _ := parseObject(e.Wire) // ours; absent for endpoints that the command line made
	if e.Active.Version > 0 {
		o.set("config", configOut(e.Active, st, e.Creator))
	}
	if e.Pending != nil {
		pending := configOut(*e.Pending, st, e.Creator)
		pending.set("start_time", milliseconds(e.Pending.Created))
		o.set("pending_config", pending)
	} else if e.Failed != nil {
		failed := configOut(e.Failed.Config, st, e.Creator)
		failed.set("start_time", milliseconds(e.Failed.Config.Created))
		o.set("pending_config", failed)
	}
	if len(e.Quota.Rates) > 0 {
		o.set("rate_limits", rateViews(e.Quota.Rates))
	}
	for _, key := range []string{"email_notifications", "budget_policy_id"} {
		if raw, ok := sent.get(key); ok {
			o.put(key, raw)
		}
	}
	url := "http://" + host + "/serving-endpoints/" + e.Name + "/invocations"
	if raw, ok := sent.get("route_optimized"); ok && string(raw) == "true" {
		o.put("route_optimized", raw)
		o.set("endpoint_url", url)
	}
	query := object{}
	query.set("endpoint_url", url)
	query.set("authorization_details", fmt.Sprintf(
		`[{"type":"workspace_permission","object_type":"serving-endpoints","object_path":"/serving-endpoints/%s","actions":["query_inference_endpoint"]}]`, e.ID))
	o.set("data_plane_info", map[string]any{"query_info": query})
	return o
}

// summary writes the ServingEndpoint of a list.
func summary(e serving.Endpoint, st serving.Status, who auth.Principal) object {
	o := head(e, st, who)
	shown := e.Active
	if shown.Version == 0 && e.Pending != nil {
		shown = *e.Pending
	}
	config := object{}
	config.set("served_entities", only(entitiesOut(shown, st, e.Creator), "name", "entity_name", "entity_version"))
	config.set("served_models", only(modelsOut(entitiesOut(shown, st, e.Creator)), "name", "model_name", "model_version"))
	o.set("config", config)
	return o
}

// head is what both forms share.
func head(e serving.Endpoint, st serving.Status, who auth.Principal) object {
	o := object{}
	o.set("id", e.ID)
	o.set("name", e.Name)
	o.set("creator", e.Creator)
	o.set("creation_timestamp", milliseconds(e.Created))
	o.set("last_updated_timestamp", milliseconds(e.Updated))
	o.set("description", e.Description)
	o.set("state", state(e, st))
	o.set("permission_level", permission(who.Scope))
	o.set("route_optimized", false)
	if tags := tagsOut(e); len(tags) > 0 {
		o.put("tags", encode(tags))
	}
	return o
}

// state follows what the SDK's waiters poll for: IN_PROGRESS until it is really
// done, READY only when every entity of the active config is.
func state(e serving.Endpoint, st serving.Status) object {
	ready, update := "NOT_READY", "NOT_UPDATING"
	if e.Active.Version > 0 && st.Ready {
		ready = "READY"
	}
	switch {
	case e.Pending != nil:
		update = "IN_PROGRESS"
	case e.Failed != nil:
		update = "UPDATE_FAILED"
	}
	o := object{}
	o.set("ready", ready)
	o.set("config_update", update)
	return o
}

// tagsOut keeps the order in which tags were sent while they are those that
// were sent; once patched they are sorted by key.
func tagsOut(e serving.Endpoint) []object {
	now := wireTags(e.Tags)
	sent, _ := parseObject(e.Wire)
	raw, ok := sent.get("tags")
	if !ok {
		return now
	}
	var first []json.RawMessage
	if json.Unmarshal(raw, &first) != nil || len(first) != len(now) {
		return now
	}
	var echo []object
	for _, sent := range first {
		i := slices.IndexFunc(now, func(o object) bool { return bytes.Equal(encode(o), sent) })
		if i < 0 {
			return now
		}
		echo = append(echo, now[i])
	}
	return echo
}

// configOut writes an EndpointCoreConfigOutput.
func configOut(c serving.Config, st serving.Status, creator string) object {
	o := object{}
	entities := entitiesOut(c, st, creator)
	o.set("served_entities", entities)
	o.set("served_models", modelsOut(entities))
	o.set("traffic_config", trafficOut(c.Splits))
	o.set("config_version", c.Version)
	sent, _ := parseObject(c.Wire)
	if raw, ok := sent.get("auto_capture_config"); ok {
		o.put("auto_capture_config", raw)
	}
	return o
}

// trafficOut names each entity both ways: the old name and the new.
func trafficOut(splits []serving.Split) object {
	routes := []object{}
	for _, s := range splits {
		o := object{}
		o.set("served_model_name", s.Entity)
		o.set("served_entity_name", s.Entity)
		o.set("traffic_percentage", s.Percent)
		routes = append(routes, o)
	}
	o := object{}
	o.set("routes", routes)
	return o
}

func entitiesOut(c serving.Config, st serving.Status, creator string) []object {
	echoes := echoes(c)
	list := []object{}
	for i, e := range c.Entities {
		o := echoes[i]
		if o.has("scale_to_zero_enabled") { // may have been changed by another door since
			o.set("scale_to_zero_enabled", e.Scale.Min == 0)
		}
		o.set("creation_timestamp", milliseconds(c.Created))
		o.set("creator", creator)
		o.set("state", deployment(c, e, st))
		list = append(list, o)
	}
	return list
}

// echoes returns what was sent of each entity, with a name if it was given none.
// Of a config that came by another door it says what the house knows.
func echoes(c serving.Config) []object {
	wire, _ := parseObject(c.Wire)
	raw, _ := wire.get("served_entities")
	var sent []json.RawMessage
	if raw != nil {
		_ = json.Unmarshal(raw, &sent) // ours; an unreadable one is rebuilt below
	}
	list := make([]object, len(c.Entities))
	for i, e := range c.Entities {
		if len(sent) == len(c.Entities) {
			list[i], _ = parseObject(sent[i])
		} else {
			list[i] = rebuilt(e)
		}
		if !list[i].has("name") {
			list[i] = append(object{{"name", encode(e.Name)}}, list[i]...)
		}
	}
	return list
}

func rebuilt(e serving.Entity) object {
	o := object{}
	o.set("name", e.Name)
	if e.Model != "" {
		o.set("entity_name", e.Model)
	}
	o.set("scale_to_zero_enabled", e.Scale.Min == 0)
	if len(e.Vars) > 0 {
		o.set("environment_vars", e.Vars)
	}
	return o
}

// modelsOut writes the same entities in the legacy form.
func modelsOut(entities []object) []object {
	list := []object{}
	for _, e := range entities {
		var o object
		for _, m := range e {
			switch m.Key {
			case "entity_name":
				m.Key = "model_name"
			case "entity_version":
				m.Key = "model_version"
			}
			o = append(o, m)
		}
		list = append(list, o)
	}
	return list
}

func only(list []object, keys ...string) []object {
	for i, o := range list {
		list[i] = slices.DeleteFunc(slices.Clone(o), func(m member) bool { return !slices.Contains(keys, m.Key) })
	}
	return list
}

// Databricks: ServedModelState.deployment.
var deployments = map[serving.Deployment]string{
	serving.Creating:   "DEPLOYMENT_CREATING",
	serving.Recovering: "DEPLOYMENT_RECOVERING",
	serving.Deployed:   "DEPLOYMENT_READY",
	serving.Broken:     "DEPLOYMENT_FAILED",
	serving.Aborted:    "DEPLOYMENT_ABORTED",
}

func deployment(c serving.Config, e serving.Entity, st serving.Status) object {
	state, message := deployments[serving.Creating], ""
	for _, s := range st.Entities {
		if s.Config == c.Version && s.Entity.Name == e.Name {
			state, message = deployments[s.State], s.Message
		}
	}
	o := object{}
	o.set("deployment", state)
	o.set("deployment_state_message", message)
	return o
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
