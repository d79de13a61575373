package prepare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"loadline.dev/loadline/scoring"
	"loadline.dev/loadline/serving"
)

// A row is the values of one row as JSON text, one for each column.
type row []string

// A drawer draws rows that a model may be asked.
type drawing struct {
	columns []column
	tensor  bool
	name    string             // of the tensor; may be empty
	base    []row              // the model's own example, as far as it could be read
	within  map[string]float64 // of a column's numbers; absent is no bound
	rand    *rand.Rand
}

// newDrawing reads the model's example, if it has one. The same seed draws the
// same rows.
func newDrawing(columns []column, r serving.Recipe, schema, params string) *drawing {
	d := &drawing{columns: columns, within: map[string]float64{}, tensor: len(columns) > 0 && columns[0].Type == "tensor",
		rand: rand.New(rand.NewPCG(1, uint64(len(r.Model.Digest))))}
	if d.tensor {
		d.name = columns[0].Name
	}
	if b, ok := scoring.NewReader(schema, params, false).Batch(r.Example); ok {
		d.base = d.rowsOf(b)
	}
	if len(d.base) == 0 {
		d.base = []row{d.middle()}
	}
	return d
}

// rowsOf writes a batch as rows.
func (d *drawing) rowsOf(b scoring.Batch) (rows []row) {
	if len(b.Columns) != len(d.columns) && !d.tensor {
		return nil // the example leaves out a column
	}
	for i := range min(b.Rows, 100) {
		var one row
		for k := range d.columns {
			if d.tensor {
				one = append(one, b.Columns[0].JSON(i*len(d.columns)+k))
			} else {
				one = append(one, b.Columns[k].JSON(i))
			}
		}
		rows = append(rows, one)
	}
	return rows
}

// middle is a row of a model without an example: where its points lie.
func (d *drawing) middle() row {
	var one row
	for _, c := range d.columns {
		switch {
		case c.Type == "string" && len(c.Texts) > 0:
			one = append(one, quoted(c.Texts[0]))
		case c.Type == "string":
			one = append(one, `"a"`)
		case c.Type == "boolean":
			one = append(one, "false")
		case len(c.Points) > 0:
			one = append(one, number(c.Type, c.Points[len(c.Points)/2]))
		default:
			one = append(one, number(c.Type, 0))
		}
	}
	return one
}

func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic("prepare: a string always encodes: " + err.Error())
	}
	return string(text)
}

// number writes v as a value of a column of that type, within its range.
func number(kind string, v float64) string {
	switch kind {
	case "long":
		return strconv.FormatInt(int64(min(max(v, -1<<62), 1<<62)), 10)
	case "integer":
		return strconv.FormatInt(int64(min(max(v, math.MinInt32), math.MaxInt32)), 10)
	case "boolean":
		return strconv.FormatBool(v > 0)
	}
	text := strconv.FormatFloat(v, 'g', -1, 64)
	if !strings.ContainsAny(text, ".e") {
		text += ".0"
	}
	return text
}

// any draws one value of a column near those of a row that the model knows.
func (d *drawing) any(c *column, near string) string {
	switch c.Type {
	case "string":
		return d.text(c, near)
	case "boolean":
		return strconv.FormatBool(d.rand.IntN(2) == 0)
	}
	from, err := strconv.ParseFloat(near, 64)
	if err != nil {
		from = 0
	}
	if len(c.Points) > 0 && d.rand.IntN(2) == 0 {
		from = c.Points[d.rand.IntN(len(c.Points))]
	}
	spread := math.Abs(from)*0.3 + 0.1
	if len(c.Points) > 1 {
		spread = (c.Points[len(c.Points)-1] - c.Points[0]) / 4
	}
	switch d.rand.IntN(20) {
	case 0:
		return number(c.Type, 0)
	case 1:
		spread *= 1000
	case 2:
		return number(c.Type, -from)
	}
	v := from + spread*d.rand.NormFloat64()
	if c.Type == "long" || c.Type == "integer" {
		v = math.Round(v)
	}
	most := d.bound(c)
	return number(c.Type, min(max(v, -most), most))
}

// bound is the largest number of a column that may be asked.
func (d *drawing) bound(c *column) float64 {
	if most, bounded := d.within[c.Name]; bounded {
		return most
	}
	return 1e37
}

// largest is the largest number among a column's points and the known rows.
func (d *drawing) largest(k int) float64 {
	most := 1.0
	for _, p := range d.columns[k].Points {
		most = max(most, math.Abs(p))
	}
	for _, r := range d.base {
		if v, err := strconv.ParseFloat(r[k], 64); err == nil {
			most = max(most, math.Abs(v))
		}
	}
	return most
}

// text draws one that the model knows, or of the words that it knows.
func (d *drawing) text(c *column, near string) string {
	if len(c.Texts) == 0 {
		return near
	}
	if !c.Free {
		return quoted(c.Texts[d.rand.IntN(len(c.Texts))])
	}
	var words []string
	for range d.rand.IntN(12) {
		word := c.Texts[d.rand.IntN(len(c.Texts))]
		switch d.rand.IntN(8) {
		case 0:
			word = strings.ToUpper(word)
		case 1:
			word += "x"
		case 2:
			word += [...]string{",", ".", "!", "-", "'s", "\n", "  ", "_"}[d.rand.IntN(8)]
		}
		words = append(words, word)
	}
	return quoted(strings.Join(words, " "))
}

// near draws a row: a known one with some of its values drawn anew.
func (d *drawing) near() row {
	from := d.base[d.rand.IntN(len(d.base))]
	one := slices.Clone(from)
	all := d.rand.IntN(2) == 0
	for k := range one {
		if all || d.rand.IntN(3) == 0 {
			one[k] = d.any(&d.columns[k], from[k])
		}
	}
	return one
}

// with is the row with one value replaced.
func (r row) with(k int, value string) row {
	one := slices.Clone(r)
	one[k] = value
	return one
}

// edges draws rows on both sides of every point, as float32 and as float64 see
// it, and with what is extreme for its type.
func (d *drawing) edges(most int) (rows []row) {
	for k := range d.columns {
		c := &d.columns[k]
		if c.Type == "string" || c.Type == "boolean" {
			continue
		}
		for _, p := range c.Points {
			single := float32(p)
			for _, v := range []float64{p, math.Nextafter(p, math.Inf(1)), math.Nextafter(p, math.Inf(-1)), float64(single),
				float64(math.Nextafter32(single, float32(math.Inf(1)))), float64(math.Nextafter32(single, float32(math.Inf(-1))))} {
				if math.Abs(v) <= d.bound(c) {
					rows = append(rows, d.near().with(k, number(c.Type, v)))
				}
			}
		}
	}
	d.rand.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	rows = rows[:min(len(rows), most)]
	for k := range d.columns {
		for _, v := range []float64{0, 1, -1, 1e-30, 1e6, -1e6, 1e15, -1e15, 3e37, -3e37, math.MaxInt32, math.MinInt32, 1 << 53} {
			if c := &d.columns[k]; c.Type != "string" && math.Abs(v) <= d.bound(c) {
				rows = append(rows, d.base[0].with(k, number(c.Type, v)))
			}
		}
	}
	return rows
}

// unseen are texts that a model was hardly trained on.
var unseen = []string{"", " ", "zzz unseen", "Ünïcödé ☃ 𝔘", "tab\tand\nline", strings.Repeat("long ", 200), "0", "NaN", "None", "'quote\""}

// body writes rows as a request.
func (d *drawing) body(rows []row) []byte {
	var b bytes.Buffer
	if d.tensor {
		b.WriteString(`{"inputs": `)
		if d.name != "" {
			fmt.Fprintf(&b, `{%s: `, quoted(d.name))
		}
	} else {
		b.WriteString(`{"dataframe_split": {"columns": [`)
		for k, c := range d.columns {
			if k > 0 {
				b.WriteByte(',')
			}
			b.WriteString(quoted(c.Name))
		}
		b.WriteString(`], "data": `)
	}
	b.WriteByte('[')
	for i, r := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("[" + strings.Join(r, ",") + "]")
	}
	b.WriteByte(']')
	if !d.tensor || d.name != "" {
		b.WriteByte('}')
	}
	b.WriteByte('}')
	return b.Bytes()
}
