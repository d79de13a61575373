package trace

import (
	"bytes"
	"compress/gzip"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func options() Options {
	return Options{Service: 100 * time.Millisecond, Dice: rand.New(rand.NewPCG(1, 1))}
}

func read(t *testing.T, text string) Trace {
	t.Helper()
	tr, err := Read(strings.NewReader(text), options())
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// Each format is known by its own header.
func TestFormatsAreKnownByTheirHeaders(t *testing.T) {
	functions := "HashFunction,day,1,2,3" + strings.Repeat(",0", 1437) + "\n"
	minutes := func(hash, day, n string) string { return hash + "," + day + strings.Repeat(","+n, 1440) + "\n" }
	for format, c := range map[string]struct {
		text     string
		seconds  int
		requests int64
		exact    bool // else drawn
	}{
		"counts by the second":    {"second,requests\n7,3\n9,4\n8,0\n9,1\n", 3, 8, true},
		"single requests":         {"arrival_s,service_s\n3.5,0.2\n1.25,0.1\n", 3, 2, true},
		"rates by the step":       {"t_seconds,requests_per_second\n0,100\n600,200\n", 1200, 180000, false},
		"counts by the minute":    {"period,count\n1998-04-30 21:30:00,200\n1998-04-30 21:31:00,1100\n", 120, 1300, true},
		"Numenta's values":        {"timestamp,value\n2014-04-10 00:04:00,94.0\n2014-04-10 00:09:00,5600.0\n", 600, 5694, false},
		"Azure's requests":        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n", 2, 2, true},
		"Azure's functions":       {functions + minutes("aa", "8", "2") + minutes("bb", "9", "1"), 2 * 86400, 3 * 1440, true},
		"Mooncake's requests":     {`{"timestamp": 0, "input_length": 6758}` + "\n" + `{"timestamp": 2500, "input_length": 1}` + "\n", 3, 2, true},
		"ServeGen's windows":      {"0,10,1.1,Gamma,0.8,0.1\n600,0,0,,0,0\n1200,20,2.8,Weibull,0.64,0.06\n", 1800, 18000, false},
		"with a byte order mark":  {"\ufeffsecond,requests\n0,1\n", 1, 1, true},
		"with quotes and returns": {"\"second\",\"requests\"\r\n0,1\r\n1,2\r\n", 2, 3, true},
	} {
		tr := read(t, c.text)
		off := math.Abs(float64(tr.Requests() - c.requests))
		if tr.Seconds() != c.seconds || c.exact && off != 0 || off > 6*math.Sqrt(float64(c.requests))*3 {
			t.Errorf("%s: %v, want %d requests in %d seconds", format, tr, c.requests, c.seconds)
		}
	}
}

func TestGzipIsRead(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte("second,requests\n0,5\n"))
	z.Close()
	tr, err := Read(&b, options())
	if err != nil || tr.Requests() != 5 {
		t.Errorf("%v, %v", tr, err)
	}
}

// A fault in a file is told with its line.
func TestFaultsAreTold(t *testing.T) {
	for text, says := range map[string]string{
		"":                                      "empty",
		"a,b\n1,2\n":                            `"a,b" is not known`,
		"second,requests\n":                     "no rows",
		"second,requests\n1,x\n":                `line 2: requests "x" is not a number`,
		"second,requests\n0,1\n1.5,2\n":         "line 3: 1.5,2: seconds and requests are whole",
		"second,requests\n-1,2\n":               "line 2: second -1 is negative",
		"second,requests\n1\n":                  "line 2: column requests is missing",
		"second,requests\n0,1\n99999999999,1\n": "spans",
		"arrival_s,service_s\n1,NaN\n":          "line 2: service_s",
		"period,count\nyesterday,3\n":           `line 2: "yesterday" is no date`,
		"period,count\n1998-04-30 21:30:00,1\n": "fewer than two rows",
		"0,10,1,Gamma,1,1\n0,10,1,Gamma,1,1\n":  "line 2: a window begins no later",
	} {
		_, err := Read(strings.NewReader(text), options())
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, want %s", text, err, says)
		}
	}
}

// A client's gaps have the coefficient of variation that its window says, and
// its rate holds.
func TestServeGenKeepsRateAndBurstiness(t *testing.T) {
	for shape, cv := range map[float64]float64{1: 1, 0.25: 2} { // of a gamma: 1 ÷ √shape
		dice := rand.New(rand.NewPCG(2, 2))
		sum, square, n := 0.0, 0.0, 200000.0
		for range int(n) {
			g := gamma(dice, shape)
			sum += g
			square += g * g
		}
		mean := sum / n
		if got := math.Sqrt(square/n-mean*mean) / mean; math.Abs(mean-1) > 0.02 || math.Abs(got-cv) > 0.05 {
			t.Errorf("gamma of shape %v: mean %.3f, coefficient of variation %.3f, want 1 and %v", shape, mean, got, cv)
		}
	}
	dice := rand.New(rand.NewPCG(3, 3))
	sum := 0.0
	for range 200000 {
		sum += weibull(dice, 0.6)
	}
	if mean := sum / 200000; math.Abs(mean-1) > 0.03 {
		t.Errorf("weibull: mean %.3f, want 1", mean)
	}
}

func TestCutIsThatStretch(t *testing.T) {
	tr := read(t, "second,requests\n10,1\n11,2\n12,3\n13,4\n").Cut(1, 2)
	if tr.First != 11 || tr.Seconds() != 2 || tr.Requests() != 5 {
		t.Errorf("%+v", tr)
	}
	tr = read(t, "arrival_s,service_s\n0.5,1\n1.5,1\n2.5,1\n").Cut(1, 1)
	if tr.Requests() != 1 || tr.Arrivals[0].At != 5e8 {
		t.Errorf("%+v", tr)
	}
}

// No bytes make the reader fail in another way than by an error, and what it
// reads can be played.
func FuzzRead(f *testing.F) {
	for _, text := range []string{"second,requests\n0,1\n", "arrival_s,service_s\n0.1,1\n", "t_seconds,requests_per_second\n0,1\n9,2\n",
		"period,count\n1998-04-30 21:30:00,2\n1998-04-30 21:31:00,2\n", `{"timestamp": 0}` + "\n", "0,1,1,Gamma,1,1\n600,1,1,,0,0\n", "HashFunction,day,1,2,3\na,1,1,2,3\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, err := Read(bytes.NewReader(data), options())
		if err != nil {
			return
		}
		last := int64(0)
		for _, a := range tr.Arrivals {
			if a.At < last || a.Service < 0 {
				t.Fatalf("arrival %+v after %d", a, last)
			}
			last = a.At
		}
	})
}
