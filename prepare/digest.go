package prepare

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"loadline.dev/loadline/serving"
)

// content is what of an entity decides how its replicas run. Its name, its
// scale and its place in the traffic do not.
type content struct {
	Engine, Command, Health string
	Strict                  bool
	Vars                    [][2]string
	Limits                  serving.Limits
	Reads                   []string `json:",omitempty"`
	Egress                  bool     `json:",omitempty"`
}

func contentOf(e serving.Entity, limits serving.Limits) string {
	c := content{Engine: e.Engine, Command: e.Command, Health: e.Health, Strict: e.Strict, Limits: limits, Reads: e.Reads, Egress: e.Egress}
	if c.Engine == "" {
		c.Engine = "auto"
	}
	for k, v := range e.Vars {
		c.Vars = append(c.Vars, [2]string{k, v})
	}
	slices.SortFunc(c.Vars, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	return hash("loadline entity 1", e.Model, c)
}

// revision names what runs: model bytes, environment, engine asked for,
// variables, strictness, egress, limits. Another name for the same bytes is the same
// revision.
func revision(e serving.Entity, r serving.Recipe) string {
	e.Model = ""
	return hash("loadline revision 1", contentOf(e, r.Limits), r.Model.Digest, r.Env.Digest)
}

func hash(parts ...any) string {
	data, err := json.Marshal(parts)
	if err != nil {
		panic("prepare: plain values always encode: " + err.Error())
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func short(s string) string { return hash(s)[:32] }
