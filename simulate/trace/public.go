package trace

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

// readRates reads t_seconds,requests_per_second in equal steps.
func readRates(r io.Reader, o Options) (Trace, error) {
	var at, rate []float64
	err := rows(r, true, func(row []string) error {
		t, err := number(row, 0, "t_seconds")
		if err != nil {
			return err
		}
		v, err := number(row, 1, "requests_per_second")
		if err != nil {
			return err
		}
		at, rate = append(at, t), append(rate, v)
		return nil
	})
	if err != nil {
		return Trace{}, err
	}
	return evenly(at, rate, o, func(step float64) float64 { return step }, false)
}

var layouts = []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", time.RFC3339Nano, "2006-01-02 15:04:05.9999999"}

func moment(text string) (float64, error) {
	for _, layout := range layouts {
		if t, err := time.Parse(layout, strings.TrimSpace(text)); err == nil {
			return float64(t.Unix()) + float64(t.Nanosecond())/1e9, nil
		}
	}
	return 0, fmt.Errorf("%.40q is no date and time", text)
}

// stamped reads a date and a count per row, in equal steps.
func stamped(whole bool) func(io.Reader, Options) (Trace, error) {
	return func(r io.Reader, o Options) (Trace, error) {
		var at, count []float64
		err := rows(r, true, func(row []string) error {
			t, err := moment(row[0])
			if err != nil {
				return err
			}
			n, err := number(row, 1, "count")
			if err != nil {
				return err
			}
			at, count = append(at, t), append(count, n)
			return nil
		})
		if err != nil {
			return Trace{}, err
		}
		return evenly(at, count, o, func(float64) float64 { return 1 }, whole)
	}
}

// evenly puts values on equal steps, the commonest distance between rows. What
// a step without a row had is unknown and counts as the step before it. A value
// times scale(step) is the count of its step.
func evenly(at, value []float64, o Options, scale func(step float64) float64, whole bool) (Trace, error) {
	if len(at) < 2 {
		return Trace{}, errors.New("fewer than two rows: the length of a step is not known")
	}
	gaps := make([]float64, 0, len(at)-1)
	for i := range at[1:] {
		if at[i+1] < at[i] {
			return Trace{}, fmt.Errorf("row %d is older than the row before it", i+2)
		}
		gaps = append(gaps, at[i+1]-at[i])
	}
	slices.Sort(gaps)
	step := math.Round(gaps[len(gaps)/2])
	if step < 1 {
		return Trace{}, errors.New("rows are less than a second apart")
	}
	if (at[len(at)-1]-at[0])/step > maxSeconds/step {
		return Trace{}, fmt.Errorf("it spans more than %d seconds", maxSeconds)
	}
	c := coarse{step: int(step)}
	for i, v := range value {
		n := v * scale(step)
		if n/step > maxCount/2 {
			return Trace{}, fmt.Errorf("row %d has more than %d requests a second", i+2, maxCount/2)
		}
		slot := int(math.Round((at[i] - at[0]) / step))
		for len(c.counts) < slot {
			c.counts = append(c.counts, c.counts[len(c.counts)-1])
		}
		if slot < len(c.counts) {
			c.counts[slot] = n // two rows in one step: the later holds
			continue
		}
		c.counts = append(c.counts, n)
	}
	return c.trace(0, o.Dice, whole)
}

// readTimestamps reads requests by their date; how long they take is not said.
func readTimestamps(r io.Reader, o Options) (Trace, error) {
	var list []request
	err := rows(r, true, func(row []string) error {
		t, err := moment(row[0])
		if err != nil {
			return err
		}
		list = append(list, request{t, o.Service.Seconds()})
		return nil
	})
	if err != nil {
		return Trace{}, err
	}
	t, err := single(list)
	t.First = 0
	return t, err
}

// readMooncake reads requests of which the timestamp is in milliseconds.
func readMooncake(r io.Reader, o Options) (Trace, error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<24)
	var list []request
	for line := 1; s.Scan(); line++ {
		if len(strings.TrimSpace(s.Text())) == 0 {
			continue
		}
		var row struct {
			Timestamp *float64 `json:"timestamp"`
		}
		if err := json.Unmarshal(s.Bytes(), &row); err != nil {
			return Trace{}, fmt.Errorf("line %d: %w", line, err)
		}
		if row.Timestamp == nil || *row.Timestamp < 0 || *row.Timestamp > 1e15 {
			return Trace{}, fmt.Errorf("line %d: timestamp must be milliseconds from zero", line)
		}
		list = append(list, request{*row.Timestamp / 1000, o.Service.Seconds()})
	}
	if err := s.Err(); err != nil {
		return Trace{}, err
	}
	return single(list)
}

// readFunctions reads one row per function and day, with a count per minute.
// Options.Select names a function by the beginning of its hash.
func readFunctions(r io.Reader, o Options) (Trace, error) {
	const minutes = 1440
	days := map[int][]float64{}
	found := map[string]bool{}
	first, last := math.MaxInt, 0
	err := rows(r, true, func(row []string) error {
		found[row[0]] = true
		if !strings.HasPrefix(row[0], o.Select) {
			return nil
		}
		d, err := number(row, 1, "day")
		if err != nil {
			return err
		}
		day := int(d)
		if d != math.Trunc(d) || d > 400 {
			return fmt.Errorf("day %v is not a whole number up to 400", d)
		}
		if days[day] == nil {
			days[day] = make([]float64, minutes)
		}
		first, last = min(first, day), max(last, day)
		for i := 2; i < len(row) && i < minutes+2; i++ {
			if row[i] == "" {
				continue
			}
			n, err := number(row, i, fmt.Sprint("of minute ", i-1))
			if err != nil {
				return err
			}
			if days[day][i-2] += n; days[day][i-2] > maxCount/2 {
				return fmt.Errorf("minute %d has more than %d requests", i-1, maxCount/2)
			}
		}
		return nil
	})
	if err != nil {
		return Trace{}, err
	}
	if len(days) == 0 {
		return Trace{}, fmt.Errorf("none of its %d functions begins with %q", len(found), o.Select)
	}
	c := coarse{step: 60}
	for day := first; day <= last; day++ {
		if days[day] == nil {
			days[day] = make([]float64, minutes)
		}
		c.counts = append(c.counts, days[day]...)
	}
	return c.trace(0, o.Dice, true)
}

var servegenRow = regexp.MustCompile(`^\d+,[0-9.eE+-]+,[0-9.eE+-]+,(Gamma|Weibull|),[0-9.eE+-]+,[0-9.eE+-]+$`)

// readServeGen reads windows of t_start, rate, coefficient of variation,
// distribution, shape and scale of the gaps between one client's requests, and
// draws the requests. The shape holds; the scale follows from the rate, which
// was measured, where the two were fitted.
func readServeGen(r io.Reader, o Options) (Trace, error) {
	type window struct {
		at, rate, shape float64
		weibull         bool
	}
	var windows []window
	err := rows(r, false, func(row []string) error {
		if len(row) < 6 {
			return errors.New("a window has six columns")
		}
		var v [6]float64
		for _, i := range []int{0, 1, 4} {
			var err error
			if v[i], err = number(row, i, fmt.Sprint(i+1)); err != nil {
				return err
			}
		}
		w := window{v[0], v[1], v[4], row[3] == "Weibull"}
		if w.shape <= 0.01 || row[3] == "" {
			w.shape, w.weibull = 1, false
		}
		if n := len(windows); n > 0 && w.at <= windows[n-1].at {
			return errors.New("a window begins no later than the one before it")
		}
		windows = append(windows, w)
		return nil
	})
	if err != nil {
		return Trace{}, err
	}
	if len(windows) < 2 {
		return Trace{}, errors.New("fewer than two windows: their length is not known")
	}
	if o.Dice == nil {
		return Trace{}, errors.New("it says how requests are distributed, and there are no dice to draw them from")
	}
	first := windows[0].at
	length := windows[len(windows)-1].at - windows[len(windows)-2].at
	end := windows[len(windows)-1].at + length
	if end-first >= maxSeconds {
		return Trace{}, fmt.Errorf("it spans more than %d seconds", maxSeconds)
	}
	t := Trace{First: int64(first), Counts: make([]uint32, int(math.Ceil(end-first)))}
	owed := -1.0 // of the gap, in mean gaps; negative: to be drawn
	for i, w := range windows {
		until := end
		if i+1 < len(windows) {
			until = windows[i+1].at
		}
		if w.rate*(until-w.at) > maxRequests {
			return Trace{}, fmt.Errorf("window %d has more than %d requests", i+1, maxRequests)
		}
		now := w.at
		for w.rate > 0 {
			if owed < 0 {
				owed = gamma(o.Dice, w.shape)
				if w.weibull {
					owed = weibull(o.Dice, w.shape)
				}
			}
			if left := (until - now) * w.rate; owed > left {
				owed -= left
				break
			}
			now += owed / w.rate
			owed = -1
			t.Counts[min(int(now-first), len(t.Counts)-1)]++
		}
	}
	return t, nil
}
