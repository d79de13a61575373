package trace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"loadline.dev/loadline/serving"
)

// Bounds on what a file may make us hold in memory.
const (
	maxSeconds  = 400 * 24 * 3600 // over a year
	maxRequests = 200_000_000     // of traces that list each request
	maxCount    = math.MaxUint32
)

// Options say how a file is turned into a trace.
type Options struct {
	// Service is the time in service of requests in traces that list each one
	// and do not say how long it took.
	Service time.Duration

	// Dice places what is known more coarsely than by the second.
	Dice *rand.Rand

	// Select names one of several series in a file that holds more than one;
	// empty takes all together.
	Select string
}

// Open reads a file, gzip or plain.
func Open(path string, o Options) (Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		kind := serving.Invalid
		if errors.Is(err, os.ErrNotExist) {
			kind = serving.NotFound
		}
		return Trace{}, &serving.Error{Op: "read trace", Kind: kind, Err: err}
	}
	defer f.Close()
	t, err := Read(f, o)
	if err != nil {
		return Trace{}, &serving.Error{Op: "read trace", Subject: path, Kind: serving.Invalid, Err: err, Fix: serving.FixOf(err)}
	}
	return t, nil
}

// Read reads a trace and takes its format from its first line.
func Read(r io.Reader, o Options) (Trace, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	if magic, _ := b.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return Trace{}, err
		}
		b = bufio.NewReaderSize(z, 1<<16)
	}
	if bom, _ := b.Peek(3); bytes.Equal(bom, []byte("\ufeff")) {
		b.Discard(3) //nolint:errcheck // just peeked
	}
	head, err := b.Peek(1 << 12)
	if len(head) == 0 {
		if err != nil && !errors.Is(err, io.EOF) {
			return Trace{}, err
		}
		return Trace{}, errors.New("the file is empty")
	}
	line := string(head)
	if i := strings.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	line = strings.TrimSpace(line)
	for _, f := range formats {
		if f.is(line) {
			t, err := f.read(b, o)
			if err == nil && t.Requests() == 0 && t.Seconds() == 0 {
				return Trace{}, errors.New("the file has a header and no rows")
			}
			return t, err
		}
	}
	return Trace{}, &serving.Error{Kind: serving.Invalid, Err: fmt.Errorf("line 1: the header %.60q is not known", line),
		Fix: "give it the header second,requests or arrival_s,service_s"}
}

// A format is a way of writing traffic down.
type format struct {
	name string
	is   func(header string) bool
	read func(io.Reader, Options) (Trace, error)
}

var formats = []format{
	{"counts by the second", heads("second,requests"), readCounts},
	{"single requests", heads("arrival_s,service_s"), readRequests},
	{"rates by the step", heads("t_seconds,requests_per_second"), readRates},
	{"counts by the minute", heads("period,count"), stamped(true)},
	{"Numenta's values", heads("timestamp,value"), stamped(false)},
	{"Azure LLM requests", heads("timestamp,contexttokens,generatedtokens"), readTimestamps},
	{"Azure Functions by the minute", heads("hashfunction,day,1,2,3"), readFunctions},
	{"Mooncake requests", func(h string) bool { return strings.HasPrefix(h, `{"timestamp":`) }, readMooncake},
	{"ServeGen windows", servegenRow.MatchString, readServeGen},
}

// heads matches a CSV header by its first columns.
func heads(want string) func(string) bool {
	return func(header string) bool {
		h := strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(header, " ", ""), `"`, ""))
		return h == want || strings.HasPrefix(h, want+",")
	}
}

// rows calls f with each row after the header, and its line for messages.
func rows(r io.Reader, skipHeader bool, f func(row []string) error) error {
	c := csv.NewReader(r)
	c.ReuseRecord, c.FieldsPerRecord, c.TrimLeadingSpace = true, -1, true
	for n := 0; ; n++ {
		row, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n == 0 && skipHeader {
			continue
		}
		if err := f(row); err != nil {
			line, _ := c.FieldPos(0)
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// number reads column i as a number that is finite and at least zero.
func number(row []string, i int, name string) (float64, error) {
	if i >= len(row) {
		return 0, fmt.Errorf("column %s is missing", name)
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(row[i]), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%s %.40q is not a number", name, row[i])
	}
	if v < 0 {
		return 0, fmt.Errorf("%s %v is negative", name, v)
	}
	return v, nil
}

// readCounts reads second,requests. Seconds without a row had no requests; rows
// of the same second add up, and may come in any order.
func readCounts(r io.Reader, _ Options) (Trace, error) {
	type entry struct{ at, n int64 }
	var list []entry
	err := rows(r, true, func(row []string) error {
		at, err := number(row, 0, "second")
		if err != nil {
			return err
		}
		n, err := number(row, 1, "requests")
		if err != nil {
			return err
		}
		if at != math.Trunc(at) || n != math.Trunc(n) || at > 1e15 || n > maxCount {
			return fmt.Errorf("%s,%s: seconds and requests are whole numbers", row[0], row[1])
		}
		list = append(list, entry{int64(at), int64(n)})
		return nil
	})
	if err != nil || len(list) == 0 {
		return Trace{}, err
	}
	first, last := list[0].at, list[0].at
	for _, e := range list {
		first, last = min(first, e.at), max(last, e.at)
	}
	if last-first >= maxSeconds {
		return Trace{}, fmt.Errorf("it spans %d seconds, more than %d", last-first+1, maxSeconds)
	}
	t := Trace{First: first, Counts: make([]uint32, last-first+1)}
	for _, e := range list {
		sum := int64(t.Counts[e.at-first]) + e.n
		if sum > maxCount {
			return Trace{}, fmt.Errorf("second %d has more than %d requests", e.at, int64(maxCount))
		}
		t.Counts[e.at-first] = uint32(sum)
	}
	return t, nil
}

// readRequests reads arrival_s,service_s, in any order of arrival.
func readRequests(r io.Reader, _ Options) (Trace, error) {
	var list []request
	err := rows(r, true, func(row []string) error {
		at, err := number(row, 0, "arrival_s")
		if err != nil {
			return err
		}
		service, err := number(row, 1, "service_s")
		if err != nil {
			return err
		}
		list = append(list, request{at, service})
		return nil
	})
	if err != nil {
		return Trace{}, err
	}
	return single(list)
}

// A request is an arrival in seconds as a file has it.
type request struct{ at, service float64 }

// single makes a trace of single requests.
func single(list []request) (Trace, error) {
	if len(list) == 0 {
		return Trace{}, nil
	}
	if len(list) > maxRequests {
		return Trace{}, fmt.Errorf("%d requests, more than %d", len(list), maxRequests)
	}
	slices.SortStableFunc(list, func(a, b request) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	first := math.Floor(list[0].at)
	if list[len(list)-1].at-first >= maxSeconds || first > 1e15 {
		return Trace{}, fmt.Errorf("it spans more than %d seconds", maxSeconds)
	}
	t := Trace{First: int64(first), Arrivals: make([]Arrival, len(list))}
	for i, r := range list {
		if r.service > maxSeconds {
			return Trace{}, fmt.Errorf("a request takes %v seconds, more than %d", r.service, maxSeconds)
		}
		t.Arrivals[i] = Arrival{At: int64((r.at - first) * 1e9), Service: int64(r.service * 1e9)}
	}
	return t, nil
}
