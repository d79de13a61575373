package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"loadline.dev/loadline/serving"
)

// An object is a JSON object that remembers the order of its members, since
// clients compare what they read with what they sent.
type object []member

type member struct {
	Key string
	Raw json.RawMessage
}

// parseObject reads one JSON object and nothing after it. A key that is given
// twice keeps its first place and its last value.
func parseObject(data []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	open, err := d.Token()
	if err != nil {
		return nil, badJSON(d, err)
	}
	if open != json.Delim('{') {
		return nil, invalid("the body must be a JSON object")
	}
	var o object
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, badJSON(d, err)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, badJSON(d, err)
		}
		o.put(key.(string), raw) // a key of an object is a string, or Token had failed
	}
	if _, err := d.Token(); err != nil {
		return nil, badJSON(d, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("more follows the JSON object at byte %d", d.InputOffset())
	}
	return o, nil
}

func badJSON(d *json.Decoder, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return invalid("the body is not JSON: byte %d: %v", syntax.Offset, err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("the body is not JSON: it ends early at byte %d", d.InputOffset())
	}
	return invalid("the body is not JSON: byte %d: %v", d.InputOffset(), err)
}

func (o object) get(key string) (json.RawMessage, bool) {
	for _, m := range o {
		if m.Key == key {
			return m.Raw, true
		}
	}
	return nil, false
}

func (o object) has(key string) bool { _, ok := o.get(key); return ok }

func (o *object) put(key string, raw json.RawMessage) {
	for i := range *o {
		if (*o)[i].Key == key {
			(*o)[i].Raw = raw
			return
		}
	}
	*o = append(*o, member{key, raw})
}

// set puts a value that is known to encode.
func (o *object) set(key string, value any) { o.put(key, encode(value)) }

func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(encode(m.Key))
		b.WriteByte(':')
		b.Write(m.Raw)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// encode writes JSON without HTML escapes, so that an echo is what was sent.
func encode(value any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		panic(fmt.Sprintf("rest: a value of type %T does not encode: %v", value, err))
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// A reader takes fields out of an object and remembers the first thing that is
// wrong, so that a long list of fields reads as one.
type reader struct {
	where string // "config.served_entities[0]"; "" at the top
	obj   object
	asked []string
	echo  object // what was read, in the order it was sent, in its proper type
	err   error
}

func newReader(where string, raw json.RawMessage) *reader {
	r := &reader{where: where}
	if r.obj, r.err = parseObject(raw); r.err != nil {
		if where != "" {
			r.err = invalid("%s must be an object", where)
		}
	}
	return r
}

func (r *reader) path(key string) string {
	if r.where == "" {
		return key
	}
	return r.where + "." + key
}

// take returns a field, or false when it is absent, null, or an earlier one was wrong.
func (r *reader) take(key string) (json.RawMessage, bool) {
	r.asked = append(r.asked, key)
	raw, ok := r.obj.get(key)
	return raw, ok && r.err == nil && string(raw) != "null"
}

func (r *reader) wrong(key, want string, raw json.RawMessage) {
	if r.err == nil {
		r.err = invalid("%s must be %s, not %.60s", r.path(key), want, raw)
	}
}

func (r *reader) text(key string) string {
	raw, ok := r.take(key)
	if !ok {
		return ""
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		r.wrong(key, "a string", raw)
	}
	r.echo.set(key, s)
	return s
}

// version is a text that published examples also send as a number.
func (r *reader) version(key string) string {
	raw, ok := r.take(key)
	if !ok {
		return ""
	}
	s := strings.Trim(string(raw), `"`)
	if n, err := strconv.ParseUint(s, 10, 32); err != nil || n == 0 {
		r.wrong(key, "a version number", raw)
	}
	r.echo.set(key, s)
	return s
}

// number reads a whole number, also from a string, as some published examples send it.
func (r *reader) number(key string) (int, bool) {
	raw, ok := r.take(key)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<31 {
		r.wrong(key, "a whole number", raw)
		return 0, false
	}
	r.echo.set(key, int(f))
	return int(f), true
}

func (r *reader) flag(key string) bool {
	raw, ok := r.take(key)
	if !ok {
		return false
	}
	b, err := strconv.ParseBool(strings.ToLower(strings.Trim(string(raw), `"`)))
	if err != nil {
		r.wrong(key, "true or false", raw)
	}
	r.echo.set(key, b)
	return b
}

func (r *reader) list(key string) []json.RawMessage {
	raw, ok := r.take(key)
	if !ok {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		r.wrong(key, "a list", raw)
	}
	return list
}

func (r *reader) texts(key string) []string {
	raw, ok := r.take(key)
	if !ok {
		return nil
	}
	var list []string
	if json.Unmarshal(raw, &list) != nil {
		r.wrong(key, "a list of strings", raw)
	}
	return list
}

func (r *reader) dictionary(key string) map[string]string {
	raw, ok := r.take(key)
	if !ok {
		return nil
	}
	var m map[string]string
	if json.Unmarshal(raw, &m) != nil {
		r.wrong(key, "an object of strings", raw)
	}
	r.echo.put(key, raw)
	return m
}

// keep echoes a field untouched.
func (r *reader) keep(key string) (json.RawMessage, bool) {
	raw, ok := r.take(key)
	if ok {
		r.echo.put(key, raw)
	}
	return raw, ok
}

// skip marks fields as known whose value means nothing on the way in.
func (r *reader) skip(keys ...string) { r.asked = append(r.asked, keys...) }

// unknown lists the fields that nobody asked for.
func (r *reader) unknown() []string {
	var list []string
	for _, m := range r.obj {
		if !slices.Contains(r.asked, m.Key) {
			list = append(list, r.path(m.Key))
		}
	}
	return list
}

// strict makes an unknown field an error that names the nearest known one.
func (r *reader) strict() error {
	if list := r.unknown(); r.err == nil && len(list) > 0 {
		hint := "known are " + strings.Join(r.asked, ", ")
		if near := nearest(list[0], r.asked); near != "" {
			hint = "did you mean " + near + "?"
		}
		r.err = invalid("unknown field %.80q; %s", list[0], hint)
	}
	return r.err
}

// ordered is what was read, in the order it was sent.
func (r *reader) ordered() object {
	var o object
	for _, m := range r.obj {
		if raw, ok := r.echo.get(m.Key); ok {
			o.put(m.Key, raw)
		}
	}
	return o
}

func invalid(format string, args ...any) error {
	return &serving.Error{Kind: serving.Invalid, Err: fmt.Errorf(format, args...)}
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = invalid(format, args...)
	}
}

func (r *reader) miss(key, why string) {
	if r.err == nil {
		r.err = absent(r.path(key), why)
	}
}
