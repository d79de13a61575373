package simulate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"loadline.dev/loadline/serving"
)

// A Profile is what is known of a model on a machine before it is asked. Zero
// values are not known.
type Profile struct {
	LoadLine int             // requests that one replica may carry at once
	Service  time.Duration   // of one request
	Starts   []time.Duration // start delays that were measured
}

// OpenProfile reads a profile: a JSON object with load_line (a number),
// service_time (a duration as "80ms") and start_delays (a list of durations).
func OpenProfile(path string) (Profile, error) {
	f, err := os.Open(path)
	if err != nil {
		kind := serving.Invalid
		if errors.Is(err, os.ErrNotExist) {
			kind = serving.NotFound
		}
		return Profile{}, &serving.Error{Op: "read profile", Kind: kind, Err: err}
	}
	defer f.Close()
	p, err := readProfile(f)
	if err != nil {
		return Profile{}, &serving.Error{Op: "read profile", Subject: path, Kind: serving.Invalid, Err: err,
			Fix: `write it as {"load_line": 8, "service_time": "80ms", "start_delays": ["2s", "3s"]}`}
	}
	return p, nil
}

func readProfile(r io.Reader) (Profile, error) {
	d := json.NewDecoder(io.LimitReader(r, 16<<20))
	d.DisallowUnknownFields()
	var wire struct {
		LoadLine int      `json:"load_line"`
		Service  string   `json:"service_time"`
		Starts   []string `json:"start_delays"`
	}
	if err := d.Decode(&wire); err != nil {
		return Profile{}, err
	}
	p := Profile{LoadLine: wire.LoadLine}
	if p.LoadLine < 0 || p.LoadLine > 1<<20 {
		return Profile{}, fmt.Errorf("load_line %d must lie between 0 and %d", p.LoadLine, 1<<20)
	}
	if wire.Service != "" {
		var err error
		if p.Service, err = time.ParseDuration(wire.Service); err != nil || p.Service <= 0 {
			return Profile{}, fmt.Errorf("service_time %q must be a positive duration", wire.Service)
		}
	}
	for _, text := range wire.Starts {
		delay, err := time.ParseDuration(text)
		if err != nil || delay < 0 {
			return Profile{}, fmt.Errorf("start delay %q must be a duration", text)
		}
		p.Starts = append(p.Starts, delay)
	}
	return p, nil
}
