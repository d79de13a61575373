package local

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	starts  prometheus.Histogram
	deaths  prometheus.Counter
	adopted prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		starts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "loadline_local_start_seconds", Help: "Time from a replica's start until it is ready.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 13), // 0.1 s … 410 s
		}),
		deaths: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loadline_local_deaths_total", Help: "Replicas whose agent ended without being told.",
		}),
		adopted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loadline_local_adopted_total", Help: "Replicas taken over from an earlier process.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.starts, m.deaths, m.adopted)
	}
	return m
}
