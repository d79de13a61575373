package rest

import (
	"encoding/json"
	"fmt"

	"loadline.dev/loadline/serving"
)

// parseCreate reads a CreateServingEndpoint.
func parseCreate(data []byte, disk local) (serving.Endpoint, []string, error) {
	r := newReader("", data)
	e := serving.Endpoint{Name: r.text("name"), Description: r.text("description")}
	config, hasConfig := r.take("config")
	tags := r.list("tags")
	r.flag("route_optimized")
	r.text("budget_policy_id")
	r.keep("email_notifications")
	rates := r.list("rate_limits")
	for _, key := range []string{"ai_gateway", "telemetry_config"} {
		if raw, ok := r.take(key); ok && string(raw) != "{}" && string(raw) != "[]" {
			r.miss(key, "this version does not have it; leave it out")
		}
	}
	if r.err != nil {
		return e, nil, r.err
	}
	if err := serving.CheckName(e.Name); err != nil {
		return e, nil, err
	}
	if !hasConfig {
		return e, nil, invalid("config is missing: name at least one model in config.served_entities")
	}
	d, err := parseConfig("config", config, disk)
	if err != nil {
		return e, nil, err
	}
	if e.Tags, err = parseTags("tags", tags); err != nil {
		return e, nil, err
	}
	if e.Quota.Rates, err = parseRates("rate_limits", rates, false); err != nil {
		return e, nil, err
	}
	e.Pending = &d.config
	wire := object{}
	for _, m := range r.ordered() {
		if m.Key != "name" && m.Key != "description" {
			wire.put(m.Key, m.Raw)
		}
	}
	if e.Tags != nil {
		wire.set("tags", wireTags(e.Tags))
	}
	e.Wire = encode(wire)
	return e, append(r.unknown(), d.warnings...), nil
}

const maxTags, maxTagBytes = 50, 256

func parseTags(where string, list []json.RawMessage) ([]serving.Tag, error) {
	if len(list) > maxTags {
		return nil, invalid("%s has %d tags; at most %d are allowed", where, len(list), maxTags)
	}
	var tags []serving.Tag
	for i, raw := range list {
		r := newReader(fmt.Sprintf("%s[%d]", where, i), raw)
		tag := serving.Tag{Key: r.text("key"), Value: r.text("value")}
		switch {
		case r.err != nil:
			return nil, r.err
		case tag.Key == "":
			return nil, invalid("%s.key is missing", r.where)
		case len(tag.Key) > maxTagBytes || len(tag.Value) > maxTagBytes:
			return nil, invalid("%s is longer than %d bytes", r.where, maxTagBytes)
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// wireTags writes tags; a tag without a value was sent without one.
func wireTags(tags []serving.Tag) []object {
	list := []object{}
	for _, t := range tags {
		o := object{}
		o.set("key", t.Key)
		if t.Value != "" {
			o.set("value", t.Value)
		}
		list = append(list, o)
	}
	return list
}
