package prepare

import (
	"context"
	"fmt"
	"math"
	"strconv"
)

// Rows next to a decision boundary: where the answer is a label, a converted
// model may turn it a little earlier or later than the model itself.
const (
	boundaryPairs = 20
	boundarySteps = 46   // halvings: to 1e-14 of the way between two rows
	boundaryFree  = 1e-7 // a label that turns this near to a boundary is reported; farther away it loses
)

// boundarySides are how far from a boundary labels are compared, as a part of
// the way between two rows.
var boundarySides = []float64{1e-12, 1e-10, 1e-9, 1e-8, 5e-8, 2e-7, 1e-6, 1e-5}

// labels takes an answer apart into one label for each row. Other answers than
// whole numbers and texts have none.
func labels(answer []byte) (found []string) {
	depth := 0
	for {
		t, rest := token(answer)
		if len(t) == 0 {
			return found
		}
		switch {
		case t[0] == '[' || t[0] == '{':
			depth++
		case t[0] == ']' || t[0] == '}':
			depth--
		case depth == 2 && t[0] != ',' && (t[0] == '"' || isWhole(t)):
			found = append(found, string(t))
		case depth != 2 && t[0] != ',' && t[0] != ':' && string(t) != `"predictions"`, depth == 2 && t[0] != ',':
			return nil
		}
		answer = rest
	}
}

// boundaries finds rows between which the Python engine's label turns, and
// compares the labels on both sides of where it does.
func (c *comparing) boundaries(ctx context.Context) error {
	from, to, err := c.pairs(ctx)
	if err != nil || len(from) == 0 {
		return err
	}
	// The boundary lies between these parts of the way.
	lo, hi := make([]float64, len(from)), make([]float64, len(from))
	var start []string
	for i := range hi {
		hi[i] = 1
	}
	for step := range boundarySteps {
		at := make([]float64, len(from))
		for i := range at {
			if step > 0 {
				at[i] = (lo[i] + hi[i]) / 2
			}
		}
		got, err := c.pythonLabels(ctx, c.between(from, to, at))
		if err != nil || got == nil {
			return err
		}
		if step == 0 {
			start = got
			continue
		}
		for i := range at {
			if got[i] == start[i] {
				lo[i] = at[i]
			} else {
				hi[i] = at[i]
			}
		}
	}
	for _, side := range boundarySides {
		for _, sign := range []float64{-1, 1} {
			at := make([]float64, len(from))
			for i := range at {
				at[i] = min(max((lo[i]+hi[i])/2+sign*side, 0), 1)
			}
			if err := c.side(ctx, c.between(from, to, at), side); err != nil {
				return err
			}
		}
	}
	return nil
}

// side compares the labels of rows that lie side away from a boundary.
func (c *comparing) side(ctx context.Context, rows []row, side float64) error {
	got, want, declined, err := c.asks(ctx, rows)
	if err != nil || declined || want.status != 200 || got.status != 200 {
		return err
	}
	ours, theirs := labels(got.body), labels(want.body)
	for i := range theirs {
		c.out.Beside++
		if len(ours) == len(theirs) && ours[i] == theirs[i] {
			continue
		}
		if side > boundaryFree || len(ours) != len(theirs) {
			return c.differ(rows[i], fmt.Sprintf("another label, %.0e beside a boundary", side))
		}
		c.out.Turned++
	}
	return nil
}

// pairs draws rows that differ in their labels and in fractions only.
func (c *comparing) pairs(ctx context.Context) (from, to []row, err error) {
	var rows []row
	for range 2 * batchRows {
		one := c.rows.near()
		for k, v := range one {
			if v == "null" {
				one[k] = c.rows.base[0][k]
			}
		}
		rows = append(rows, one)
	}
	// The second of each pair takes from the first what is no fraction.
	var firsts, seconds []row
	for i := 0; i+1 < len(rows); i += 2 {
		second := rows[i]
		for k, column := range c.Columns {
			if column.Type == "double" || column.Type == "float" || column.Type == "tensor" {
				second = second.with(k, rows[i+1][k])
			}
		}
		firsts, seconds = append(firsts, rows[i]), append(seconds, second)
	}
	a, err := c.pythonLabels(ctx, firsts)
	if err != nil || a == nil {
		return nil, nil, err
	}
	b, err := c.pythonLabels(ctx, seconds)
	if err != nil || b == nil {
		return nil, nil, err
	}
	for i := range a {
		if a[i] != b[i] && len(from) < boundaryPairs {
			from, to = append(from, firsts[i]), append(to, seconds[i])
		}
	}
	return from, to, nil
}

// pythonLabels are the Python engine's; nil where it gives none.
func (c *comparing) pythonLabels(ctx context.Context, rows []row) ([]string, error) {
	status, answer, err := c.python.Ask(ctx, c.rows.body(rows), "application/json")
	if err != nil || status != 200 {
		return nil, err
	}
	found := labels(answer)
	if len(found) != len(rows) {
		return nil, nil
	}
	return found, nil
}

// between are the rows at these parts of the ways.
func (c *comparing) between(from, to []row, at []float64) (rows []row) {
	for i := range from {
		one := from[i]
		for k, column := range c.Columns {
			a, errA := strconv.ParseFloat(from[i][k], 64)
			b, errB := strconv.ParseFloat(to[i][k], 64)
			if errA == nil && errB == nil && from[i][k] != to[i][k] {
				v := a + at[i]*(b-a)
				if column.Type == "float" {
					v = float64(float32(v))
				}
				if !math.IsInf(v, 0) {
					one = one.with(k, number(column.Type, v))
				}
			}
		}
		rows = append(rows, one)
	}
	return rows
}
