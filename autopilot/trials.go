package autopilot

import "math"

// How much headroom pays depends on the traffic, so it is tried rather than
// set. A few trials fly beside the pilot, each with another multiple of the
// demand's standard deviation as headroom, on the same seconds and with the
// same start delay; the pilot follows the one that does best. A trial is a
// fluid: it knows no single requests, which makes a second of it some forty
// operations.
//
// Best is the least of cost ÷ work + grudge × √(late ÷ work). The root is the
// one price for smooth and bursty traffic alike: where next to nothing is late
// the first thousandth is worth buying off with some percent of cost, where a
// hundredth is late anyway the same thousandth is not.
type trials struct {
	all    [len(multiples)]trial
	work   float64 // smoothed load
	age    int     // seconds
	chosen uint8
}

// multiples are the headrooms tried, in standard deviations.
var multiples = [...]float64{0, 0.5, 0.75, 1, 1.25, 1.75, 2.5, 3.5}

const (
	firstChoice = 3    // of multiples, until there is something to choose by
	trialYoung  = 300  // seconds until then
	trialMemory = 3600 // seconds that cost and lateness are smoothed over
	trialEvery  = 20   // seconds between choices
	grudge      = 8    // at a ten-thousandth late, a tenth of it less is worth 0.4 % of cost
)

// A trial is one of them.
type trial struct {
	coming [8]int32 // starting, by eighths of the start delay
	ready  int32
	wants  window
	behind float32 // waits and is not late yet
	cost   float32 // smoothed, in the unit of load
	late   float32
}

func (t *trials) begin(span int) {
	*t = trials{chosen: firstChoice}
	for i := range t.all {
		t.all[i].wants = spanning(span)
	}
}

// headroom is what to keep beyond a demand. It is bounded by twice the demand:
// where the deviation is larger than that, one burst of a minute ago made it,
// and says nothing of the next second.
func (t *trials) headroom(demand, sd float64) float64 {
	return headroom(multiples[t.chosen], demand, sd)
}

func headroom(multiple, demand, sd float64) float64 { return min(multiple*sd, 2*demand) }

// choose picks the best multiple by all seconds played so far.
func (t *trials) choose() {
	if t.age < trialYoung || t.age%trialEvery != 0 || t.work <= 0 {
		return
	}
	best := math.Inf(1)
	for i := range t.all {
		x := &t.all[i]
		if score := float64(x.cost)/t.work + grudge*math.Sqrt(float64(max(0, x.late))/t.work); score < best {
			best, t.chosen = score, uint8(i)
		}
	}
}

// play lets every trial live through a second of load x, with the estimate that
// the pilot itself had at its end.
func (t *trials) play(x, asked, sd, line, start, objective float64) {
	t.age++
	per := max(1, int(math.Round(start/8)))
	slots := min(max(int(math.Round(start/float64(per))), 1), 8)
	turn := t.age%per == 0
	slot := t.age / per % slots
	weight := 1 / min(float64(t.age), trialMemory)
	t.work += weight * (x - t.work)
	for i := range t.all {
		y := &t.all[i]
		carries := float64(y.ready) * line
		over := max(0, float64(y.behind)+x-carries)
		late := max(0, over-carries*objective)
		y.behind = float32(over - late)
		coming := int32(0)
		for _, n := range y.coming {
			coming += n
		}
		y.cost += float32(weight * (float64(y.ready+coming)*line - float64(y.cost)))
		y.late += float32(weight * (late - float64(y.late)))
		if turn {
			y.ready += y.coming[slot]
			coming -= y.coming[slot]
			y.coming[slot] = 0
		}
		want := int32(min(replicas(asked+headroom(multiples[i], asked, sd), line), 1<<20))
		if asked > 0 {
			want = max(want, 1)
		}
		y.wants.push(int(want))
		if size := y.ready + coming; want > size {
			y.coming[slot] += want - size
		} else if want < size {
			y.ready -= min(y.ready, size-max(want, min(size, int32(y.wants.max()))))
		}
	}
}
