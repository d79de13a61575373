package trace

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
)

// A coarse is traffic known only by the mean of equally long steps.
type coarse struct {
	step   int       // seconds
	counts []float64 // requests in each step
}

// trace draws what came in each second. The rate within a step runs straight
// from the middle of one to the middle of the next, because traffic does not
// jump where somebody's ruler has a mark. Where whole is true each step keeps
// its exact count, else it is the mean of a Poisson count.
func (c coarse) trace(first int64, dice *rand.Rand, whole bool) (Trace, error) {
	if c.step < 1 || len(c.counts) == 0 {
		return Trace{}, errors.New("it says no traffic")
	}
	if len(c.counts) > maxSeconds/c.step {
		return Trace{}, fmt.Errorf("it spans more than %d seconds", maxSeconds)
	}
	if dice == nil {
		return Trace{}, errors.New("it is coarser than by the second, and there are no dice to draw the seconds from")
	}
	t := Trace{First: first, Counts: make([]uint32, len(c.counts)*c.step)}
	rates := make([]float64, c.step)
	for i, n := range c.counts {
		c.rates(i, rates, whole)
		seconds := t.Counts[i*c.step : (i+1)*c.step]
		if !whole {
			for s, rate := range rates {
				seconds[s] = uint32(poisson(dice, rate))
			}
			continue
		}
		left, mass := int64(n), 0.0
		for _, r := range rates {
			mass += r
		}
		for s, r := range rates {
			if left == 0 {
				break
			}
			got := left
			if s < len(rates)-1 {
				got = binomial(dice, left, r/mass)
			}
			seconds[s] = uint32(got)
			left -= got
			mass -= r
		}
	}
	return t, nil
}

// rates fills in the rate of each second of step i. With whole they are scaled to
// the step's own count, which costs a small jump where steps meet.
func (c coarse) rates(i int, out []float64, whole bool) {
	own := c.counts[i] / float64(c.step)
	before, after := own, own
	if i > 0 {
		before = c.counts[i-1] / float64(c.step)
	}
	if i+1 < len(c.counts) {
		after = c.counts[i+1] / float64(c.step)
	}
	sum := 0.0
	for s := range out {
		at := (float64(s) + 0.5) / float64(c.step) // 0 … 1 within the step
		if at < 0.5 {
			out[s] = before + (own-before)*(at+0.5)
		} else {
			out[s] = own + (after-own)*(at-0.5)
		}
		if own == 0 {
			out[s] = 0
		}
		sum += out[s]
	}
	if whole && sum > 0 {
		for s := range out {
			out[s] *= c.counts[i] / sum
		}
	}
}

// poisson draws how many of many rare things happen: by multiplying for a small
// mean, by the normal approximation for a large one.
func poisson(dice *rand.Rand, mean float64) int64 {
	if mean > 50 {
		return int64(math.Max(0, math.Round(mean+math.Sqrt(mean)*dice.NormFloat64())))
	}
	limit, p, n := math.Exp(-mean), dice.Float64(), int64(0)
	for p > limit {
		p *= dice.Float64()
		n++
	}
	return n
}

// binomial draws how many of n fall where a share p falls.
func binomial(dice *rand.Rand, n int64, p float64) int64 {
	p = min(max(p, 0), 1)
	if variance := float64(n) * p * (1 - p); variance > 100 {
		k := math.Round(float64(n)*p + math.Sqrt(variance)*dice.NormFloat64())
		return int64(min(max(k, 0), float64(n)))
	}
	if float64(n)*p < 20 && p < 0.3 { // from gap to gap
		k, at := int64(0), int64(0)
		if p == 0 {
			return 0
		}
		for {
			at += int64(math.Log(1-dice.Float64())/math.Log1p(-p)) + 1
			if at > n || at < 0 {
				return k
			}
			k++
		}
	}
	k := int64(0)
	for range n {
		if dice.Float64() < p {
			k++
		}
	}
	return k
}

// gamma draws with mean one (Marsaglia and Tsang, A simple method for
// generating gamma variables, 2000).
func gamma(dice *rand.Rand, shape float64) float64 {
	boost := 1.0
	k := shape
	if k < 1 {
		boost = math.Pow(1-dice.Float64(), 1/k)
		k++
	}
	d := k - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := dice.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v *= v * v
		if math.Log(1-dice.Float64()) < 0.5*x*x+d-d*v+d*math.Log(v) {
			return boost * d * v / shape
		}
	}
}

// weibull draws with mean one.
func weibull(dice *rand.Rand, shape float64) float64 {
	return math.Pow(-math.Log(1-dice.Float64()), 1/shape) / math.Gamma(1+1/shape)
}
