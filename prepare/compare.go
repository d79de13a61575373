package prepare

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"loadline.dev/loadline/serving"
)

// ErrDeclined is for a [Candidate] made from an [Attempt] that is Alone to
// answer from Ask when a request is not for it.
var ErrDeclined = errors.New("the engine leaves this request to another")

// A Comparison is what a candidate for the native engine showed against the
// Python engine, asked the same.
type Comparison struct {
	Native serving.Native // with the guards that were found to be needed

	Asked int // rows that both were asked
	Equal int // of them, those with equal answers
	Exact int // of them, those whose answers are the same bytes

	// Beside counts labels of rows right beside a decision boundary, Turned those
	// that differ because they are within 1e-7 of it. Neither is in Asked.
	Beside, Turned int

	Why string // why the candidate is not used; empty when all are equal
	Row string // the request that showed it, if one did

	// Median time of a request of one row: of the candidate, of the Python engine.
	Took, Against time.Duration
}

// Bounds of a comparison.
const (
	leastRows     = 1000
	edgeRows      = 1200 // at the points where models change their minds
	batchRows     = 100
	singleTime    = 2 * time.Second
	compareTime   = 60 * time.Second
	timedRequests = 200
)

// A comparing is one candidate being compared.
type comparing struct {
	Job
	try    func(Attempt) Candidate
	python Candidate
	asked  map[string]reply // what the Python engine said, by request
	out    *Comparison
	rows   *drawing
	engine Candidate

	differed row // the row that showed another answer
}

type reply struct {
	status int
	body   []byte
}

// compare tries each of the job's candidates against the Python engine, which
// runs already.
func (j Job) compare(ctx context.Context, python Candidate, try func(Attempt) Candidate) []Comparison {
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	asked := map[string]reply{}
	var all []Comparison
	for _, n := range j.Candidates {
		one := Comparison{Native: n}
		c := comparing{Job: j, try: try, python: python, asked: asked, out: &one,
			rows: newDrawing(j.Columns, j.Recipe, n.Schema, n.Params)}
		if err := c.run(ctx); err != nil {
			one.Why = err.Error()
		}
		all = append(all, one)
	}
	return all
}

func (c *comparing) run(ctx context.Context) error {
	// First whatever fits, to see what must be kept out.
	var open []serving.NativeGuard
	for _, name := range c.names() {
		open = append(open, serving.NativeGuard{Column: name, Nulls: true, AnyText: true})
	}
	if err := c.start(ctx, open); err != nil {
		return err
	}
	guards, err := c.probe(ctx)
	c.engine.Stop(0)
	for err == nil {
		if err = c.start(ctx, guards); err != nil {
			return err
		}
		if err = c.askAll(ctx); err == nil {
			err = errors.Join(c.boundaries(ctx), c.time(ctx))
			c.engine.Stop(0)
			return err
		}
		c.engine.Stop(0)
		// Perhaps it was no matter of the model, but of what is missing or unseen.
		if c.differed == nil || !c.tighten(guards) {
			break
		}
		err = nil
		*c.out = Comparison{Native: c.out.Native}
	}
	return err
}

// tighten keeps out of the columns what was missing or unseen in the row that
// differed. It reports whether there was anything.
func (c *comparing) tighten(guards []serving.NativeGuard) (changed bool) {
	for k, column := range c.Columns {
		at := slices.IndexFunc(guards, func(g serving.NativeGuard) bool { return g.Column == column.Name })
		g, value := &guards[at], c.differed[k]
		switch {
		case value == "null" && g.Nulls:
			g.Nulls, changed = false, true
		case column.Type == "string" && g.AnyText && !slices.ContainsFunc(column.Texts, func(s string) bool { return quoted(s) == value }):
			g.AnyText, g.Known, changed = false, column.Texts, true
		}
	}
	c.differed = nil
	return changed
}

// names are those of the columns; a tensor has one.
func (c *comparing) names() (names []string) {
	for _, column := range c.Columns {
		if !slices.Contains(names, column.Name) {
			names = append(names, column.Name)
		}
	}
	return names
}

// start starts the candidate with these guards.
func (c *comparing) start(ctx context.Context, guards []serving.NativeGuard) error {
	c.out.Native.Guards = guards
	r := c.Recipe
	n := c.out.Native
	r.Launch.Protocol, r.Launch.Native = serving.Onnx, &n
	c.engine = c.try(Attempt{Recipe: r, Alone: true})
	if err := c.engine.Start(ctx); err != nil {
		c.engine.Stop(0)
		return err
	}
	return nil
}

// asks asks both the same. declined says that the candidate did not answer.
func (c *comparing) asks(ctx context.Context, rows []row) (got, want reply, declined bool, err error) {
	body := c.rows.body(rows)
	want, known := c.asked[string(body)]
	if !known {
		if want.status, want.body, err = c.python.Ask(ctx, body, "application/json"); err != nil {
			return got, want, false, fmt.Errorf("the Python engine was not asked: %w", err)
		}
		c.asked[string(body)] = want
	}
	got.status, got.body, err = c.engine.Ask(ctx, body, "application/json")
	if errors.Is(err, ErrDeclined) {
		return got, want, true, nil
	}
	return got, want, false, err
}

// agree says whether both answer these rows, and equally.
func (c *comparing) agree(ctx context.Context, rows ...row) (bool, error) {
	got, want, declined, err := c.asks(ctx, rows)
	if err != nil || declined || want.status != 200 || got.status != 200 {
		return false, err
	}
	_, diff := compareAnswers(got.body, want.body)
	return diff == nil, nil
}

// probe finds for each column whether nulls, and texts that the model was not
// trained on, are answered equally.
func (c *comparing) probe(ctx context.Context) ([]serving.NativeGuard, error) {
	var guards []serving.NativeGuard
	for k, column := range c.Columns {
		if slices.ContainsFunc(guards, func(g serving.NativeGuard) bool { return g.Column == column.Name }) {
			continue
		}
		g := serving.NativeGuard{Column: column.Name, AnyText: true}
		var err error
		switch column.Type {
		case "string":
			g.AnyText, err = c.each(ctx, k, quotedAll(unseen))
			if !g.AnyText {
				g.Known = column.Texts
			}
		case "double", "float":
			if g.Nulls, err = c.each(ctx, k, []string{"null"}); err == nil {
				g.Within, err = c.within(ctx, column.Name)
			}
		case "long", "integer", "tensor":
			g.Within, err = c.within(ctx, column.Name)
		}
		if err != nil {
			return nil, err
		}
		if g.Within > 0 {
			c.rows.within[column.Name] = g.Within
		}
		guards = append(guards, g)
	}
	return guards, nil
}

// each says whether both agree on known rows in which the k-th value is
// replaced, by each of these.
func (c *comparing) each(ctx context.Context, k int, values []string) (bool, error) {
	for _, base := range c.rows.base[:min(3, len(c.rows.base))] {
		for _, value := range values {
			if equal, err := c.agree(ctx, base.with(k, value)); err != nil || !equal {
				return false, err
			}
		}
	}
	return true, nil
}

// within finds how large the numbers of a column may be: far from what a model
// was trained on its answer may be a matter of rounding. Zero is no bound.
func (c *comparing) within(ctx context.Context, name string) (float64, error) {
	most := 0.0
	for k, column := range c.Columns {
		if column.Name != name {
			continue
		}
		good := 2 * c.rows.largest(k)
		for v := 10 * good; v < 1e38; v *= 100 {
			equal, err := c.each(ctx, k, []string{number(column.Type, v), number(column.Type, -v)})
			if err != nil {
				return 0, err
			}
			if !equal {
				if most == 0 || good < most {
					most = good
				}
				break
			}
			good = v
		}
	}
	return most, nil
}

func quotedAll(texts []string) (quotes []string) {
	for _, text := range texts {
		quotes = append(quotes, quoted(text))
	}
	return quotes
}

// draw makes all rows that are asked.
func (c *comparing) draw() []row {
	rows := slices.Concat(c.rows.base[:min(len(c.rows.base), 20)], c.rows.edges(edgeRows))
	guard := map[string]serving.NativeGuard{}
	for _, g := range c.out.Native.Guards {
		guard[g.Column] = g
	}
	for n := 0; n < leastRows/2 || len(rows) < leastRows+batchRows; n++ {
		one := c.rows.near()
		for k, column := range c.Columns {
			g := guard[column.Name]
			switch {
			case c.rows.rand.IntN(8) > 0:
			case g.Nulls:
				one[k] = "null"
			case column.Type == "string" && g.AnyText:
				one[k] = quoted(unseen[c.rows.rand.IntN(len(unseen))])
			}
		}
		rows = append(rows, one)
	}
	return rows
}

// askAll asks many rows at once, and some of them alone.
func (c *comparing) askAll(ctx context.Context) error {
	rows := c.draw()
	for some := range slices.Chunk(rows, batchRows) {
		if err := c.askSome(ctx, some); err != nil {
			return err
		}
	}
	began := time.Now()
	for n := 0; n < 20 || n < timedRequests && time.Since(began) < singleTime; n++ {
		if err := c.askSome(ctx, rows[len(rows)-1-n:len(rows)-n]); err != nil {
			return err
		}
	}
	if c.out.Asked < leastRows {
		return fmt.Errorf("only %d of %d rows could be asked", c.out.Asked, len(rows))
	}
	return nil
}

// askSome asks rows together, and one by one where together says nothing.
func (c *comparing) askSome(ctx context.Context, rows []row) error {
	got, want, declined, err := c.asks(ctx, rows)
	if err != nil {
		return err
	}
	if len(rows) > 1 && (declined || want.status != 200) {
		for i := range rows {
			if err := c.askSome(ctx, rows[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if declined {
		return nil
	}
	c.out.Asked += len(rows)
	if want.status != 200 || got.status != 200 {
		return c.differ(rows[0], fmt.Sprintf("status %d instead of %d (%s)", got.status, want.status, messageOf(want.body)))
	}
	exact, diff := compareAnswers(got.body, want.body)
	if diff != nil {
		c.out.Equal += min(diff.row, len(rows)-1)
		return c.differ(rows[min(diff.row, len(rows)-1)], diff.text)
	}
	c.out.Equal += len(rows)
	if exact {
		c.out.Exact += len(rows)
	}
	return nil
}

// differ is the error that a row shows.
func (c *comparing) differ(r row, what string) error {
	c.differed, c.out.Row = r, string(c.rows.body([]row{r}))
	return fmt.Errorf("another answer than MLflow's: %s", what)
}

// time measures a request of one row with both.
func (c *comparing) time(ctx context.Context) error {
	body := c.rows.body(c.rows.base[:1])
	measure := func(engine Candidate) (time.Duration, error) {
		var took []time.Duration
		began := time.Now()
		for n := 0; n < 5 || n < timedRequests && time.Since(began) < time.Second/2; n++ {
			start := time.Now()
			if _, _, err := engine.Ask(ctx, body, "application/json"); err != nil {
				return 0, err
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		return took[len(took)/2], nil
	}
	var err error
	if c.out.Took, err = measure(c.engine); errors.Is(err, ErrDeclined) {
		return errors.New("the model's own example is not for it")
	} else if err != nil {
		return err
	}
	c.out.Against, err = measure(c.python)
	return err
}

// String is the sentence about a comparison that people are told.
func (c Comparison) String() string {
	name := "native"
	if c.Native.Precision != "" {
		name += " (" + c.Native.Precision + ")"
	}
	if c.Why != "" {
		text := fmt.Sprintf("%s: not used: %s", name, c.Why)
		if c.Row != "" {
			text += ", asked " + shown([]byte(c.Row))
		}
		return text
	}
	text := fmt.Sprintf("%s: %s of %s answers equal, %s against %s", name, grouped(c.Equal), grouped(c.Asked), brief(c.Took), brief(c.Against))
	if c.Turned > 0 {
		text += fmt.Sprintf("; within 1e-7 of a boundary %d of %d labels differ", c.Turned, c.Beside)
	}
	return text
}

// grouped writes a count with commas.
func grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}

// brief writes a duration in two digits or so.
func brief(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%d µs", d.Microseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
