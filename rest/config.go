package rest

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"loadline.dev/loadline/serving"
)

// A draft is a config as a client wrote it, read into the words of the house.
type draft struct {
	config   serving.Config
	warnings []string
}

// local says whether the caller may name what lies on the server's own disk.
type local bool

// parseConfig reads an EndpointCoreConfigInput. Its Wire is what answers must
// echo: the sent fields, in the sent order, in their documented types.
// Databricks: PUT …/config replaces served entities whole.
func parseConfig(where string, raw json.RawMessage, disk local) (draft, error) {
	r := newReader(where, raw)
	entities, models := r.list("served_entities"), r.list("served_models")
	traffic, _ := r.take("traffic_config")
	capture, _ := r.keep("auto_capture_config")
	r.skip("name", "config_version", "start_time")
	if r.err != nil {
		return draft{}, r.err
	}
	d := draft{warnings: r.unknown()}
	if err := d.entities(r, entities, models, disk); err != nil {
		return draft{}, err
	}
	if err := d.traffic(r.path("traffic_config"), traffic); err != nil {
		return draft{}, err
	}
	if err := refuseCapture(capture); err != nil {
		return draft{}, err
	}
	if err := serving.CheckConfig(d.config); err != nil {
		return draft{}, err
	}
	return d, nil
}

// entities reads the served entities, or the legacy list of served models. Who
// sends both has read an answer and sends it back: they then say the same.
func (d *draft) entities(r *reader, entities, models []json.RawMessage, disk local) error {
	list, key, read := entities, "served_entities", readEntity
	if len(entities) == 0 && len(models) > 0 {
		list, key, read = models, "served_models", readModel
	}
	if len(list) > serving.MaxEntities {
		return invalid("%d %s; at most %d are allowed", len(list), strings.ReplaceAll(key, "_", " "), serving.MaxEntities)
	}
	var echoes []object
	for i, raw := range list {
		er := newReader(fmt.Sprintf("%s[%d]", r.path(key), i), raw)
		e, err := read(er, disk)
		if err != nil {
			return err
		}
		d.config.Entities = append(d.config.Entities, e)
		d.warnings = append(d.warnings, er.unknown()...)
		echoes = append(echoes, er.ordered())
	}
	wire := object{}
	wire.set("served_entities", echoes)
	if raw, ok := r.echo.get("auto_capture_config"); ok {
		wire.put("auto_capture_config", raw)
	}
	d.config.Wire = encode(wire)
	return nil
}

// readEntity reads a ServedEntityInput.
func readEntity(r *reader, disk local) (serving.Entity, error) {
	name, model := r.text("name"), r.text("entity_name")
	return readServed(r, served{name, model, r.version("entity_version"), "entity_name", disk})
}

// readModel reads a legacy ServedModelInput, and lets it be echoed as the entity it is.
func readModel(r *reader, disk local) (serving.Entity, error) {
	name, model, version := r.text("name"), r.text("model_name"), r.version("model_version")
	e, err := readServed(r, served{name, model, version, "model_name", disk})
	for i, m := range r.obj {
		if k, ok := strings.CutPrefix(m.Key, "model_"); ok {
			r.obj[i].Key = "entity_" + k
		}
	}
	for i, m := range r.echo {
		if k, ok := strings.CutPrefix(m.Key, "model_"); ok {
			r.echo[i].Key = "entity_" + k
		}
	}
	r.skip("entity_name", "entity_version")
	return e, err
}

// served is what names a served model, under whichever names it came.
type served struct {
	name, model, version string
	key                  string
	disk                 local
}

func readServed(r *reader, s served) (serving.Entity, error) {
	e := serving.Entity{Name: s.name, Engine: "auto", Scale: serving.Scale{Min: 1}}
	if r.flag("scale_to_zero_enabled") {
		e.Scale.Min = 0
	}
	readSize(r, e.Scale.Min == 0)
	e.Vars = r.dictionary("environment_vars")
	if _, ok := r.keep("external_model"); ok {
		return e, absent(r.path("external_model"), "external models are not served by this version")
	}
	r.keep("instance_profile_arn")
	r.flag("burst_scaling_enabled")
	r.echo = slices.DeleteFunc(r.echo, func(m member) bool { return m.Key == "burst_scaling_enabled" }) // write-only
	r.skip("creation_timestamp", "creator", "state", "foundation_model")                                // of an answer sent back
	if r.err != nil {
		return e, r.err
	}
	if err := placeholders(e.Vars); err != nil {
		return e, fmt.Errorf("%s.environment_vars: %w", r.where, err)
	}
	var err error
	if e.Model, e.Lineage, err = modelOf(r, s); err != nil {
		return e, err
	}
	if e.Name == "" {
		e.Name = DefaultName(s.model, s.version)
	}
	return e, nil
}

// modelOf turns entity_name and entity_version into a MODEL and its lineage.
func modelOf(r *reader, s served) (model, lineage string, err error) {
	where := r.path(s.key)
	switch {
	case s.model == "":
		return "", "", invalid("%s is missing: name the model to serve", where)
	case onDisk(s.model):
		if !s.disk {
			return "", "", &serving.Error{Kind: serving.Denied, Err: fmt.Errorf(
				"%s: a folder of the server may be served only by its owner, from the same machine, with the owner's token", where)}
		}
		fallthrough
	case named(s.model):
		if s.version != "" {
			return "", "", invalid("%s %.80q says everything; leave the version out", where, s.model)
		}
		return s.model, Lineage(s.model), nil
	case s.version == "":
		return "", "", invalid("%s %.80q needs a version beside it", where, s.model)
	}
	if strings.ContainsAny(s.model, "/\\@?#%") || strings.Contains(s.model, "..") {
		return "", "", invalid("%s %.80q is not the name of a registered model", where, s.model)
	}
	return "models:/" + s.model + "/" + s.version, s.model, nil
}

var schemeRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*:`)

// named says whether a MODEL has a scheme of its own.
func named(model string) bool { return schemeRE.MatchString(model) }

// onDisk says whether a MODEL is a path on the server.
func onDisk(model string) bool {
	return strings.HasPrefix(model, "/") || strings.HasPrefix(model, "./") || strings.HasPrefix(model, "../") ||
		strings.HasPrefix(strings.ToLower(model), "file:")
}

// Lineage is a MODEL without its version: what a later version shares with it.
func Lineage(model string) string {
	if rest, ok := strings.CutPrefix(model, "models:/"); ok {
		name, _, alias := strings.Cut(rest, "@")
		if slash := strings.LastIndexByte(rest, '/'); slash > 0 && !alias {
			name = rest[:slash]
		}
		return name
	}
	return model
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// DefaultName is the name of an entity that was given none: the last segment of
// the model's name, a dash, the version.
func DefaultName(model, version string) string {
	name := strings.TrimRight(model, "/")
	if rest, ok := strings.CutPrefix(name, "models:/"); ok && version == "" {
		if before, after, found := strings.Cut(rest, "@"); found {
			name, version = before, after
		} else if before, after, found := strings.Cut(rest, "/"); found {
			name, version = before, after
		}
	}
	name = path.Base(name)
	if version != "" {
		name += "-" + version
	}
	const longest = 63
	name = strings.Trim(unfit.ReplaceAllString(name, "-"), "._-")
	if len(name) > longest {
		name = strings.TrimRight(name[:longest], "._-")
	}
	if name == "" {
		name = "model"
	}
	return name
}

// secretRE finds {{secrets/scope/key}}.
var secretRE = regexp.MustCompile(`\{\{\s*secrets/([^/{}]*)/([^/{}]*)\}\}`)

// placeholders refuses variables that need a secret: a model that started with
// the placeholder's text instead would fail far from the cause.
func placeholders(vars map[string]string) error {
	for _, name := range sortedKeys(vars) {
		if m := secretRE.FindStringSubmatch(vars[name]); m != nil {
			return invalid("%s refers to secret %q of scope %q, and this server keeps no secrets", name, strings.TrimSpace(m[2]), m[1])
		}
	}
	return nil
}

// traffic reads the split. One entity without a split gets everything.
func (d *draft) traffic(where string, raw json.RawMessage) error {
	entities := d.config.Entities
	if raw == nil {
		if len(entities) == 1 {
			d.config.Splits = []serving.Split{{Entity: entities[0].Name, Percent: 100}}
			return nil
		}
		if len(entities) > 1 {
			return invalid("%s is missing: %d entities are served, so say how traffic is split", where, len(entities))
		}
		return nil
	}
	r := newReader(where, raw)
	routes := r.list("routes")
	if r.err != nil {
		return r.err
	}
	d.warnings = append(d.warnings, r.unknown()...)
	for i, raw := range routes {
		rr := newReader(fmt.Sprintf("%s.routes[%d]", where, i), raw)
		name, legacy := rr.text("served_entity_name"), rr.text("served_model_name")
		percent, ok := rr.number("traffic_percentage")
		switch {
		case rr.err != nil:
			return rr.err
		case !ok:
			return invalid("%s.traffic_percentage is missing", rr.where)
		case name == "":
			name = legacy
		case legacy != "" && legacy != name:
			return invalid("%s names two entities, %q and %q", rr.where, name, legacy)
		}
		d.warnings = append(d.warnings, rr.unknown()...)
		d.config.Splits = append(d.config.Splits, serving.Split{Entity: name, Percent: percent})
	}
	return nil
}

func refuseCapture(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	r := newReader("auto_capture_config", raw)
	if r.flag("enabled") {
		return absent("auto_capture_config", "inference tables are not written by this version")
	}
	return r.err
}
