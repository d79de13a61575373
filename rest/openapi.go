package rest

import (
	"fmt"
	"net/http"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// openAPI describes an endpoint's invocations from the model's own signature.
// Databricks: it needs a ready endpoint.
func (a *api) openAPI(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	status, err := a.Desk.Status(r.Context(), a.Who(r).Tenant, name)
	if err != nil {
		return err
	}
	if !status.Ready {
		return &refusal{http.StatusBadRequest, "INVALID_STATE", fmt.Sprintf("endpoint %q is not ready; its schema is known once it is", name)}
	}
	paths := map[string]any{}
	for _, s := range status.Entities {
		if s.Pending || a.Model == nil || s.Recipe.Model.Dir == "" {
			continue
		}
		m, err := a.Model(s.Recipe)
		if err != nil {
			return err
		}
		paths[fmt.Sprintf("/serving-endpoints/%s/served-models/%s/invocations", name, s.Entity.Name)] = invocation(s.Entity, m.Signature)
		paths[fmt.Sprintf("/serving-endpoints/%s/invocations", name)] = invocation(s.Entity, m.Signature)
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": name, "version": "1"},
		"servers": []any{map[string]any{"url": "http://" + r.Host}},
		"paths":   paths,
	})
	return nil
}

// invocation is the one operation of an entity.
func invocation(e serving.Entity, s *mlmodel.Signature) map[string]any {
	input, output := map[string]any{}, map[string]any{}
	properties := map[string]any{}
	if s != nil {
		if s.Inputs != nil {
			input = schema(s.Inputs)
		}
		if s.Outputs != nil {
			output = schema(s.Outputs)
		}
		if len(s.Params) > 0 {
			params := map[string]any{}
			for _, p := range s.Params {
				one := typeSchema(p.Type)
				one["default"] = p.Default
				params[p.Name] = one
			}
			properties["params"] = map[string]any{"type": "object", "properties": params}
		}
	}
	properties["dataframe_records"] = map[string]any{"type": "array", "items": input}
	properties["dataframe_split"] = map[string]any{"type": "object"}
	properties["instances"], properties["inputs"] = map[string]any{}, map[string]any{}
	return map[string]any{"post": map[string]any{
		"operationId": "invoke-" + e.Name,
		"requestBody": content(map[string]any{"type": "object", "properties": properties}),
		"responses": map[string]any{"200": merge(map[string]any{"description": "predictions"},
			content(map[string]any{"type": "object", "properties": map[string]any{"predictions": output}}))},
	}}
}

func content(schema map[string]any) map[string]any {
	return map[string]any{"content": map[string]any{"application/json": map[string]any{"schema": schema}}}
}

func merge(a, b map[string]any) map[string]any {
	for k, v := range b {
		a[k] = v
	}
	return a
}

// schema is one row of a model's input or output.
func schema(s *mlmodel.Schema) map[string]any {
	if len(s.Tensors) > 0 {
		return map[string]any{"type": "array"}
	}
	if len(s.Columns) == 1 && !s.Columns[0].Named {
		return typeSchema(s.Columns[0].Type)
	}
	return fields(s.Columns)
}

func fields(columns []mlmodel.Column) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, c := range columns {
		properties[c.Name] = typeSchema(c.Type)
		if c.Required {
			required = append(required, c.Name)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}

var plainTypes = map[string]map[string]any{
	"boolean":  {"type": "boolean"},
	"integer":  {"type": "integer", "format": "int32"},
	"long":     {"type": "integer", "format": "int64"},
	"float":    {"type": "number", "format": "float"},
	"double":   {"type": "number", "format": "double"},
	"string":   {"type": "string"},
	"binary":   {"type": "string", "format": "byte"},
	"datetime": {"type": "string", "format": "date-time"},
}

func typeSchema(t mlmodel.Type) map[string]any {
	switch t.Kind {
	case "array":
		return map[string]any{"type": "array", "items": typeSchema(*t.Items)}
	case "map":
		return map[string]any{"type": "object", "additionalProperties": typeSchema(*t.Items)}
	case "object":
		return fields(t.Fields)
	}
	return merge(map[string]any{}, plainTypes[t.Kind])
}
