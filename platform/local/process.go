package local

import (
	"time"
)

// awaitByAsking is how the end of a process is heard of where the system does
// not tell.
func awaitByAsking(pid int, end *stopper) bool {
	tick := time.NewTicker(lookSeldom)
	defer tick.Stop()
	for {
		if _, err := birthOf(pid); err != nil {
			return true
		}
		select {
		case <-end.done:
			return false
		case <-tick.C:
		}
	}
}
