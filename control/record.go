package control

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"loadline.dev/loadline/serving"
)

// settled refuses to change a config while another is being made ready.
func settled(e serving.Endpoint) error {
	if e.Pending == nil {
		return nil
	}
	return refuse(serving.Conflict, e.Name, "wait for it (loadline wait "+e.Name+" --for updated) or delete the endpoint",
		"config %d of %s is being made ready; wait or delete", e.Pending.Version, e.Name)
}

// asOrdered is a config as it enters the record: a copy that nobody else
// changes, with nothing in it that only control may say.
func asOrdered(c serving.Config, version int, now time.Time) *serving.Config {
	c = cloneConfig(c)
	c.Version, c.Created = version, now
	for i := range c.Entities {
		c.Entities[i].Revision = ""
	}
	return &c
}

func cloneConfig(c serving.Config) serving.Config {
	c.Entities = slices.Clone(c.Entities)
	for i := range c.Entities {
		c.Entities[i].Vars = maps.Clone(c.Entities[i].Vars)
	}
	c.Splits = slices.Clone(c.Splits)
	c.Wire = slices.Clone(c.Wire)
	return c
}

// remember appends to a history and drops what is too old.
func remember(history []serving.Config, c serving.Config) []serving.Config {
	if c.Version == 0 {
		return history
	}
	history = append(slices.Clone(history), c)
	return history[max(0, len(history)-serving.MaxHistory):]
}

func mergeTags(have, add []serving.Tag, remove []string) []serving.Tag {
	byKey := map[string]string{}
	for _, t := range have {
		byKey[t.Key] = t.Value
	}
	for _, t := range add {
		byKey[t.Key] = t.Value
	}
	for _, k := range remove {
		delete(byKey, k)
	}
	var tags []serving.Tag
	for _, k := range slices.Sorted(maps.Keys(byKey)) {
		tags = append(tags, serving.Tag{Key: k, Value: byKey[k]})
	}
	return tags
}

func refuse(kind serving.Kind, subject, fix, format string, args ...any) error {
	return &serving.Error{Subject: short(subject), Kind: kind, Fix: fix, Err: fmt.Errorf(format, args...)}
}

func newID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails: the runtime ends the program rather than hand out a guess
	return hex.EncodeToString(id[:])
}

// short keeps what an outsider sent from filling a message.
func short(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

func orSomebody(creator string) string {
	if creator == "" {
		return "somebody"
	}
	return creator
}
