package simulate

import "time"

// Most calls that calibration may make of a replica, as preparation does.
const mostCalls = 200

// Calibrate finds the load line of a replica of c's kind as preparation finds a
// model's, before the first request: it plays waves of 1, 2, 4, … calls at once
// on one simulated replica, with nothing known of it, as long as a wave takes
// no longer than a call alone, and then looks between the last two. It stops
// after 200 calls with the largest wave that was carried.
func Calibrate(c Config) int {
	alone := wave(c, 1)
	calls, good, bad := 1, 1, 0
	for n := 2; bad == 0 || bad-good > 1; {
		if calls += n; calls > mostCalls {
			break
		}
		if took := wave(c, n); took <= alone+alone/20 {
			good = n
		} else {
			bad = n
		}
		if n = 2 * good; bad > 0 {
			n = (good + bad) / 2
		}
	}
	return good
}

// wave is how long n calls at once take on a replica that admits them all.
func wave(c Config, n int) time.Duration {
	var f fleet
	f.begin(n, c.Capacity, c.Service)
	f.launch(0)
	f.open(0)
	last := int64(0)
	for range n {
		last = max(last, f.serve(f.pick(), 0, int64(c.Service))+int64(c.Service))
	}
	return time.Duration(last)
}
