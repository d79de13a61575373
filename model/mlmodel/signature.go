package mlmodel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A Signature says what a model takes and gives.
type Signature struct {
	Inputs, Outputs *Schema // nil when not declared
	Params          []Param
	RawParams       json.RawMessage // as the file has them; nil when there are none
}

// A Schema is either columns or tensors, never both.
type Schema struct {
	Columns []Column
	Tensors []Tensor
	Raw     json.RawMessage // the JSON it was read from
}

// A Column is one named (or, in a schema of nameless columns, unnamed) value of a row.
type Column struct {
	Name     string
	Named    bool
	Required bool
	Type     Type
}

// A Type is a column's type. Kind is a scalar ("boolean", "integer", "long",
// "float", "double", "string", "binary", "datetime"), "array" and "map" (see
// Items), "object" (see Fields), "any" or "sparkml_vector".
type Type struct {
	Kind   string
	Items  *Type    // element of an array, value of a map
	Fields []Column // properties of an object, in the order written
}

// Scalar says that the type is one of the plain ones.
func (t Type) Scalar() bool { return scalarTypes[t.Kind] }

var scalarTypes = map[string]bool{"boolean": true, "integer": true, "long": true, "float": true,
	"double": true, "string": true, "binary": true, "datetime": true}

// A Tensor is an array of fixed element type; -1 in Shape is any length.
type Tensor struct {
	Name  string // empty when the schema is one unnamed tensor
	DType string // numpy's name: "float64"
	Shape []int64
}

// A Param is a parameter of inference with its default.
type Param struct {
	Name    string
	Type    Type
	Default json.RawMessage // "null" counts as a default of None
	Shape   []int64         // nil for a scalar, [-1] for a list
}

func readSignature(top table) (*Signature, error) {
	t, ok := top.values["signature"].(table)
	if !ok {
		return nil, nil
	}
	var s Signature
	var err error
	if s.Inputs, err = readSchema(t, "inputs"); err != nil {
		return nil, err
	}
	if s.Outputs, err = readSchema(t, "outputs"); err != nil {
		return nil, err
	}
	if text := t.text("params"); text != "" {
		if s.Params, err = readParams([]byte(text)); err != nil {
			return nil, fmt.Errorf("line %d: signature params: %w", t.lines["params"], err)
		}
		s.RawParams = json.RawMessage(text)
	}
	return &s, nil
}

func readSchema(t table, key string) (*Schema, error) {
	text := t.text(key)
	if text == "" {
		return nil, nil
	}
	s, err := parseSchema([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("line %d: signature %s: %w", t.lines[key], key, err)
	}
	return s, nil
}

// A wireField is any of the forms that a schema's JSON takes.
type wireField struct {
	Name       *string         `json:"name"`
	Type       string          `json:"type"`
	DType      string          `json:"dtype"` // params of early MLflow 2
	Required   *bool           `json:"required"`
	Optional   bool            `json:"optional"` // before MLflow 2.6
	Tensor     *wireTensor     `json:"tensor-spec"`
	Items      json.RawMessage `json:"items"`
	Values     json.RawMessage `json:"values"`
	Properties json.RawMessage `json:"properties"`
	Default    json.RawMessage `json:"default"`
	Shape      []int64         `json:"shape"`
}

type wireTensor struct {
	DType string  `json:"dtype"`
	Shape []int64 `json:"shape"`
}

func parseSchema(data []byte) (*Schema, error) {
	var fields []wireField
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	s := &Schema{Raw: json.RawMessage(data)}
	for i, f := range fields {
		if f.Type == "tensor" {
			if f.Tensor == nil {
				return nil, fmt.Errorf("item %d: tensor without tensor-spec", i)
			}
			s.Tensors = append(s.Tensors, Tensor{Name: deref(f.Name), DType: f.Tensor.DType, Shape: f.Tensor.Shape})
			continue
		}
		typ, err := f.typ(0)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		s.Columns = append(s.Columns, Column{Name: deref(f.Name), Named: f.Name != nil, Required: f.required(), Type: typ})
	}
	if len(s.Tensors) > 0 && len(s.Columns) > 0 {
		return nil, errors.New("columns and tensors are mixed")
	}
	return s, nil
}

func readParams(data []byte) ([]Param, error) {
	var fields []wireField
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	var out []Param
	for i, f := range fields {
		if f.Type == "" {
			f.Type = f.DType
		}
		typ, err := f.typ(0)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		if f.Name == nil {
			return nil, fmt.Errorf("item %d has no name", i)
		}
		out = append(out, Param{Name: *f.Name, Type: typ, Default: f.Default, Shape: f.Shape})
	}
	return out, nil
}

func (f wireField) required() bool {
	if f.Required != nil {
		return *f.Required
	}
	return !f.Optional
}

func (f wireField) typ(depth int) (Type, error) {
	t := Type{Kind: f.Type}
	switch {
	case depth > maxDepth:
		return t, fmt.Errorf("types nest more than %d levels deep", maxDepth)
	case t.Scalar() || f.Type == "any" || f.Type == "sparkml_vector":
		return t, nil
	case f.Type == "array":
		return inner(t, f.Items, depth)
	case f.Type == "map":
		return inner(t, f.Values, depth)
	case f.Type == "object":
		fields, err := properties(f.Properties, depth)
		t.Fields = fields
		return t, err
	}
	return t, fmt.Errorf("unknown type %.80q", f.Type)
}

func inner(t Type, data json.RawMessage, depth int) (Type, error) {
	var f wireField
	if err := json.Unmarshal(data, &f); err != nil {
		return t, fmt.Errorf("%s: %w", t.Kind, err)
	}
	item, err := f.typ(depth + 1)
	t.Items = &item
	return t, err
}

// properties reads an object's fields in the order written, which a Go map
// would lose.
func properties(data json.RawMessage, depth int) ([]Column, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("object: properties must be a JSON object")
	}
	var out []Column
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var f wireField
		if err := dec.Decode(&f); err != nil {
			return nil, fmt.Errorf("object: %v: %w", key, err)
		}
		typ, err := f.typ(depth + 1)
		if err != nil {
			return nil, fmt.Errorf("object: %v: %w", key, err)
		}
		name, ok := key.(string)
		if !ok {
			return nil, io.ErrUnexpectedEOF
		}
		out = append(out, Column{Name: name, Named: true, Required: f.required(), Type: typ})
	}
	return out, nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
