// Package scoring turns bodies of MLflow's scoring protocol into typed columns
// and typed answers into the text MLflow would have written.
//
// It takes a request only when it is certain that MLflow's own parser would
// hand the model the same thing: a JSON body, a fully typed signature, values
// whose JSON types fit exactly. Everything else it declines, without a reason
// and without an error, and the bytes go to the model's own MLflow as they
// came. So nothing here imitates MLflow's refusals, with one exception:
// [Reader.Strict], which refuses what MLflow would alter silently.
//
// It is pure: no I/O, no clock, no state that outlives a call.
package scoring

import (
	"encoding/json"
	"math"
	"slices"
)

// A class is what a column's values are, as the worker is told: numpy's letter.
type class byte

const (
	double  class = 'd' // float64
	single  class = 'f' // float32
	long    class = 'q' // int64
	integer class = 'i' // int32
	boolean class = '?'
	text    class = 's'
)

var classes = map[string]class{"double": double, "float": single, "long": long, "integer": integer,
	"boolean": boolean, "string": text}

var tensorClasses = map[string]class{"float64": double, "float32": single, "int64": long, "int32": integer}

// A field is one input that the signature names.
type field struct {
	name     string
	class    class // zero when values of its type cannot cross as a column
	kind     string
	required bool
}

// A Reader reads the bodies for one model. It is safe for concurrent use.
type Reader struct {
	fields     []field
	byName     map[string]int
	tensor     bool
	named      bool // false: one tensor without a name
	takes      bool
	hints      bool
	paramNames map[string]bool // of the params schema; nil without one
}

// NewReader returns the reader for a model whose input and params schemas are
// inputs and params, in MLflow's JSON text of them; empty is no schema. hints
// says that the input schema comes from type hints, so that MLflow leaves the
// conversion to pydantic.
func NewReader(inputs, params string, hints bool) *Reader {
	r := &Reader{byName: map[string]int{}, hints: hints}
	var names []struct {
		Name string `json:"name"`
	}
	if params != "" && json.Unmarshal([]byte(params), &names) == nil {
		r.paramNames = map[string]bool{}
		for _, p := range names {
			r.paramNames[p.Name] = true
		}
	}
	var specs []struct {
		Type     json.RawMessage `json:"type"`
		Name     *string         `json:"name"`
		Required *bool           `json:"required"`
		Optional *bool           `json:"optional"` // MLflow before 2.10
		Tensor   struct {
			DType string `json:"dtype"`
		} `json:"tensor-spec"`
	}
	if json.Unmarshal([]byte(inputs), &specs) != nil || len(specs) == 0 || hints {
		return r
	}
	r.takes, r.named = true, true
	for _, s := range specs {
		var kind string
		if json.Unmarshal(s.Type, &kind) != nil {
			kind = ""
		}
		f := field{kind: kind, class: classes[kind], required: s.Required == nil || *s.Required}
		if s.Optional != nil {
			f.required = !*s.Optional
		}
		if kind == "tensor" {
			r.tensor = true
			f.class = tensorClasses[s.Tensor.DType]
		}
		if s.Name != nil {
			f.name = *s.Name
		} else {
			r.named = false
		}
		if _, twice := r.byName[f.name]; twice {
			r.takes = false
		}
		r.byName[f.name] = len(r.fields)
		r.fields = append(r.fields, f)
		r.takes = r.takes && f.class != 0 && len(f.name) <= math.MaxUint16
	}
	if !r.named && (!r.tensor || len(r.fields) > 1) {
		r.takes = false
	}
	// A schema that mixes tensors with columns is none that MLflow makes.
	if r.tensor && slices.ContainsFunc(r.fields, func(f field) bool { return f.kind != "tensor" }) {
		r.takes = false
	}
	return r
}

// Takes reports whether any body for this model can cross as columns.
func (r *Reader) Takes() bool { return r.takes }
