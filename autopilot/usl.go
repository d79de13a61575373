package autopilot

import "math"

// A Law is the Universal Scalability Law of one replica: at concurrency N it
// carries X(N) = λN ÷ (1 + σ(N−1) + κN(N−1)) requests a second. Lambda is what
// it carries for one caller; Sigma is the share of work that cannot be done
// side by side, Kappa what each pair of requests costs the others.
//
// Source: Neil Gunther, "A General Theory of Computational Scalability Based on
// Rational Functions" (2008). By Little's law the time a request spends inside
// is N ÷ X(N) = a + b(N−1) + cN(N−1) with a = 1/λ, b = σ/λ, c = κ/λ, which is
// linear in a, b, c and therefore fitted without iteration.
type Law struct {
	Lambda float64 // requests a second; zero means that nothing is known
	Sigma  float64 // at least 0
	Kappa  float64 // at least 0
}

// Throughput is X(n), in requests a second.
func (l Law) Throughput(n float64) float64 {
	return l.Lambda * n / (1 + l.Sigma*(n-1) + l.Kappa*n*(n-1))
}

// Inside is the mean time in seconds that a request spends in a replica that
// holds n; zero when nothing is known.
func (l Law) Inside(n float64) float64 {
	if l.Lambda <= 0 {
		return 0
	}
	return (1 + l.Sigma*(n-1) + l.Kappa*n*(n-1)) / l.Lambda
}

// Gain is by how much of itself the throughput grows when the concurrency n
// grows: 1 where twice the callers are served twice as fast, 0 at the peak,
// below 0 where more callers are served less.
func (l Law) Gain(n float64) float64 {
	slope := l.Sigma + l.Kappa*(2*n-1)
	return 1 - n*slope/(1+l.Sigma*(n-1)+l.Kappa*n*(n-1))
}

// A cell holds what was seen at about one concurrency. Sums are weighted by
// requests and fade with time.
type cell struct {
	weight float32 // requests
	n      float32 // weight × concurrency
	inside float32 // weight × seconds inside
	square float32 // weight × seconds inside²
	count  float32 // readings
}

// A fit is a law with what is not known of it.
type fit struct {
	abc [3]float64    // a, b, c of Law
	cov [3][3]float64 // covariance of abc; zero for what the data do not reach
	ok  bool
	// spread is how far apart the concurrencies lie that were seen, as the
	// natural logarithm of their ratio: with next to none there is no slope.
	spread float64
}

func (f fit) law() Law {
	a := f.abc[0]
	if !f.ok || a <= 0 {
		return Law{}
	}
	return Law{Lambda: 1 / a, Sigma: f.abc[1] / a, Kappa: f.abc[2] / a}
}

// inside predicts the mean time inside at concurrency n and its standard error.
func (f fit) inside(n float64) (mean, deviation float64) {
	x := [3]float64{1, n - 1, n * (n - 1)}
	variance := 0.0
	for i := range x {
		mean += f.abc[i] * x[i]
		for j := range x {
			variance += x[i] * f.cov[i][j] * x[j]
		}
	}
	return mean, math.Sqrt(max(0, variance))
}

// reach is how far, in ln N, a cell may lie from where the line is before it
// counts little: no replica follows the law from one request to a thousand.
const reach = 0.8

// fitCells fits the law to what was seen around the concurrency center by
// weighted least squares, with a above zero, b and c not below.
func fitCells(cells []cell, center float64) fit {
	var normal [3][3]float64
	var right [3]float64
	low, high, used := math.Inf(1), 0.0, 0
	noise := scatter(cells)
	for i := range cells {
		c := &cells[i]
		if c.weight < 1 {
			continue
		}
		n, inside := float64(c.n/c.weight), float64(c.inside/c.weight)
		away := math.Log(n/center) / reach
		// Relative, because the scatter of times grows with the times themselves.
		w := float64(c.weight) * math.Exp(-away*away/2) / (inside * inside)
		x := [3]float64{1, n - 1, n * (n - 1)}
		for j := range x {
			right[j] += w * x[j] * inside
			for k := range x {
				normal[j][k] += w * x[j] * x[k]
			}
		}
		low, high, used = min(low, n), max(high, n), used+1
	}
	if used == 0 {
		return fit{}
	}
	f := bestOf(normal, right, used)
	if high > low {
		f.spread = math.Log(high / low)
	}
	for j := range f.cov {
		for k := range f.cov[j] {
			f.cov[j][k] *= noise
		}
	}
	return f
}

// scatter is how much single times inside differ from the mean of their cell,
// as a relative variance, seen from reading to reading: so it holds what
// requests that run side by side do to each other.
func scatter(cells []cell) float64 {
	sum, count := 0.0, 0.0
	for i := range cells {
		c := &cells[i]
		if c.weight < 1 || c.count < 2 {
			continue
		}
		mean := float64(c.inside / c.weight)
		within := float64(c.square) - float64(c.weight)*mean*mean
		sum += max(0, within) / (mean * mean)
		count += float64(c.count) - 1
	}
	if count < 1 {
		return 1 // as if times were exponential
	}
	return max(sum/count, 1e-4)
}

// bestOf solves for every choice of parameters that may be zero and returns the
// one that explains most.
func bestOf(normal [3][3]float64, right [3]float64, cells int) fit {
	best, least := fit{}, math.Inf(1)
	for _, free := range [...][3]bool{{true, true, true}, {true, true, false}, {true, false, true}, {true, false, false}} {
		size := 1
		for _, is := range free[1:] {
			if is {
				size++
			}
		}
		if size > cells {
			continue
		}
		abc, cov, ok := solve(normal, right, free)
		if !ok || abc[0] <= 0 || abc[1] < 0 || abc[2] < 0 {
			continue
		}
		// The residual sum of squares, less what is the same for all.
		loss := 0.0
		for i := range abc {
			loss -= 2 * abc[i] * right[i]
			for j := range abc {
				loss += abc[i] * normal[i][j] * abc[j]
			}
		}
		if loss < least-1e-9*math.Abs(least) || math.IsInf(least, 1) {
			best, least = fit{abc: abc, cov: cov, ok: true}, loss
		}
	}
	if best.ok && best.abc[1] == 0 && best.abc[2] == 0 {
		// That there is no slope is as uncertain as a slope would be.
		if _, cov, ok := solve(normal, right, [3]bool{true, true, false}); ok {
			best.cov = cov
		}
	}
	return best
}

// solve inverts the part of normal that is free, by Gauss and Jordan on a
// matrix scaled to a unit diagonal.
func solve(normal [3][3]float64, right [3]float64, free [3]bool) (abc [3]float64, cov [3][3]float64, ok bool) {
	var at []int
	var buffer [3]int
	at = buffer[:0]
	for i, is := range free {
		if is {
			if normal[i][i] <= 0 {
				return abc, cov, false
			}
			at = append(at, i)
		}
	}
	size := len(at)
	var m [3][6]float64
	for r, i := range at {
		for c, j := range at {
			m[r][c] = normal[i][j] / math.Sqrt(normal[i][i]*normal[j][j])
		}
		m[r][size+r] = 1
	}
	for col := range size {
		if math.Abs(m[col][col]) < 1e-7 {
			return abc, cov, false // the data do not tell these apart
		}
		pivot := m[col][col]
		for c := range 2 * size {
			m[col][c] /= pivot
		}
		for r := range size {
			if factor := m[r][col]; r != col && factor != 0 {
				for c := range 2 * size {
					m[r][c] -= factor * m[col][c]
				}
			}
		}
	}
	for r, i := range at {
		for c, j := range at {
			cov[i][j] = m[r][size+c] / math.Sqrt(normal[i][i]*normal[j][j])
			abc[i] += cov[i][j] * right[j]
		}
	}
	return abc, cov, true
}
