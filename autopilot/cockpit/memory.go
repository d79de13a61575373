package cockpit

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

// A profile is what is remembered of a model on an engine and a machine.
type profile struct {
	Line   autopilot.Profile
	Starts []time.Duration // from start to ready, newest last
}

// profileKey names what a profile was learned on. Engines of the user's own have
// no model; then it is the revision.
func profileKey(r serving.Recipe, hardware string) string {
	content := orElse(r.Model.Digest, r.Digest)
	if content == "" {
		return ""
	}
	return "profile/" + content + "/" + r.Engine + "/" + hardware
}

func (c *Cockpit) recall(ctx context.Context, key string) (profile, bool) {
	var p profile
	if c.Drawer == nil || key == "" {
		return p, false
	}
	text, err := c.Drawer.Get(ctx, key)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		if !errors.Is(err, serving.NotFound) {
			c.Log.Warn("what was learned of a model cannot be read, so it is learned again", "profile", key, "why", err)
		}
		return profile{}, false
	}
	return p, p.Line.Line > 0 || len(p.Starts) > 0
}

// keepEvery is how often what is learned is written down.
const keepEvery = 30 * time.Second

// remember writes down what was learned, of each craft every half minute.
func (c *Cockpit) remember(ctx context.Context, now time.Time, all bool) {
	if c.Drawer == nil {
		return
	}
	due := map[string]profile{}
	c.mu.Lock()
	for _, f := range c.crafts {
		if f.line == nil || f.profile == "" || !all && now.Sub(f.kept) < keepEvery {
			continue
		}
		f.kept = now
		p := profile{Line: f.line.Profile(), Starts: f.starts.Took}
		if p.Line.Line > 0 || len(p.Starts) > 0 {
			due[f.profile] = p
		}
	}
	c.mu.Unlock()
	for key, p := range due {
		text, err := json.Marshal(p)
		if err == nil {
			err = c.Drawer.Put(ctx, key, text)
		}
		if err != nil && ctx.Err() == nil {
			c.Log.Warn("what was learned is not kept", "profile", key, "why", err)
			return // the disk is the same for all
		}
	}
}
