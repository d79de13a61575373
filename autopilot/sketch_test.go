package autopilot

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestSketchQuantilesAreRightWithinATenth(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var s Sketch
		var all []time.Duration
		scale := math.Exp(dice.Float64()*12) * float64(50*time.Microsecond)
		for range 5000 {
			d := time.Duration(scale * dice.ExpFloat64())
			if d < 20*time.Microsecond || d > 10*time.Minute {
				continue
			}
			s.Add(d)
			all = append(all, d)
		}
		slices.Sort(all)
		for _, q := range []float64{0.1, 0.5, 0.9, 0.99} {
			want, got := all[int(q*float64(len(all)))], s.Quantile(q)
			if ratio := float64(got) / float64(want); ratio < 0.9 || ratio > 1.1 {
				t.Errorf("quantile %v: got %v, want %v", q, got, want)
			}
		}
	}
}

func TestSketchesAddUp(t *testing.T) {
	var whole, left, right Sketch
	dice := rand.New(rand.NewPCG(3, 4))
	for i := range 1000 {
		d := time.Duration(dice.ExpFloat64() * float64(time.Second))
		whole.Add(d)
		if i%2 == 0 {
			left.Add(d)
		} else {
			right.Add(d)
		}
	}
	left.Merge(&right)
	if left != whole || left.Total() != 1000 {
		t.Error("halves differ from the whole")
	}
	if (&Sketch{}).Quantile(0.5) != 0 {
		t.Error("an empty sketch has a median")
	}
}

func TestSketchCellsHoldWhatTheySay(t *testing.T) {
	for cell := range sketchCells {
		if SketchCell(cellStart(cell)) != cell || cell > 0 && SketchCell(cellStart(cell)-1) != cell-1 {
			t.Errorf("cell %d begins at %v", cell, cellStart(cell))
		}
	}
	if SketchCell(-1) != 0 || SketchCell(math.MaxInt64) != sketchCells-1 {
		t.Error("what lies beyond the scale is not counted at its ends")
	}
}
