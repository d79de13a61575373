package autopilot

import (
	"math/bits"
	"time"
)

// A Sketch counts durations on a logarithmic scale, four steps to the doubling:
// its quantiles are right within a tenth. Sketches of several gateways add up.
// The zero value is empty.
type Sketch struct {
	Counts [sketchCells]uint32
}

// The scale begins at 2^sketchFirst ns, a sixtieth of a millisecond, and ends at
// twenty minutes; what lies beyond counts as its end.
const (
	sketchFirst = 14
	sketchSteps = 4
	sketchCells = 27 * sketchSteps
)

// SketchCell is where a duration is counted.
func SketchCell(d time.Duration) int {
	if d < 1<<sketchFirst {
		return 0
	}
	exponent := bits.Len64(uint64(d)) - 1
	step := int(d>>(exponent-2)) & (sketchSteps - 1)
	return min(sketchCells-1, (exponent-sketchFirst)*sketchSteps+step)
}

// cellStart is the least duration of a cell.
func cellStart(cell int) time.Duration {
	exponent := sketchFirst + cell/sketchSteps
	return time.Duration(1)<<exponent + time.Duration(cell%sketchSteps)<<(exponent-2)
}

// Add counts d.
func (s *Sketch) Add(d time.Duration) { s.Counts[SketchCell(d)]++ }

// Merge adds what another has counted.
func (s *Sketch) Merge(other *Sketch) {
	for i, n := range other.Counts {
		s.Counts[i] += n
	}
}

// Total is how many durations were counted.
func (s *Sketch) Total() int {
	sum := 0
	for _, n := range s.Counts {
		sum += int(n)
	}
	return sum
}

// Quantile is the duration that a share q of those counted do not exceed; zero
// when there are none.
func (s *Sketch) Quantile(q float64) time.Duration {
	total := s.Total()
	if total == 0 {
		return 0
	}
	rank, seen := max(0, min(1, q))*float64(total), 0.0
	for i, n := range s.Counts {
		if n == 0 {
			continue
		}
		if seen+float64(n) >= rank {
			start := cellStart(i)
			within := max(0, rank-seen) / float64(n)
			return start + time.Duration(within*float64(cellStart(i+1)-start))
		}
		seen += float64(n)
	}
	return cellStart(sketchCells)
}
