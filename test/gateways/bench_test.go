package gateways

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkGateways is what clients wait, beyond what their requests take, at
// 0.9 of capacity: the same load through one gateway and through three.
//
//	go test -run xxx -bench Gateways -benchtime 1x ./test/gateways
func BenchmarkGateways(b *testing.B) {
	for _, places := range [][2]int{{1, 1}, {1, 4}, {4, 4}} {
		for _, n := range []int{1, 3} {
			b.Run(fmt.Sprintf("replicas=%d/line=%d/gateways=%d", places[0], places[1], n), func(b *testing.B) {
				for b.Loop() {
					h := newHouse(b)
					var agents []*agent
					for i := range places[0] {
						agents = append(agents, h.agent(fmt.Sprintf("r%d", i), places[1]))
					}
					h.publish(agents...)
					doors := h.gateways(n)
					const mean = 10 * time.Millisecond
					rate := 0.9 * float64(places[0]*places[1]) / mean.Seconds()
					r := newLoad(int(15*rate), rate, mean).run(b, doors)
					if len(r.failed) > 0 {
						b.Errorf("%d failed: %v", len(r.failed), r.failed[:1])
					}
					b.ReportMetric(float64(r.quantile(.5).Microseconds())/1e3, "p50-ms")
					b.ReportMetric(float64(r.quantile(.99).Microseconds())/1e3, "p99-ms")
				}
			})
		}
	}
}
