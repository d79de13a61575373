package control

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/serving"
)

// Metrics are what control counts.
type Metrics struct {
	replicas     *prometheus.GaugeVec     // state: the five of serving.State
	preparations *prometheus.CounterVec   // outcome: done, failed, cancelled
	updates      *prometheus.CounterVec   // outcome: done, failed
	phases       *prometheus.HistogramVec // phase: those of serving.Phase; outcome: done, cached, failed

	mu   sync.Mutex
	seen map[string]map[serving.State]int // by endpoint id
}

// NewMetrics declares control's metrics in reg; nil declares them nowhere.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		seen: map[string]map[serving.State]int{},
		replicas: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "loadline_control_replicas", Help: "Replicas by state, as last seen.",
		}, []string{"state"}),
		preparations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loadline_control_preparations_total", Help: "Preparations that ended, by outcome.",
		}, []string{"outcome"}),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loadline_control_updates_total", Help: "Configs that became active or were given up.",
		}, []string{"outcome"}),
	}
	m.phases = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "loadline_control_phase_seconds", Help: "Time of the phases of preparation, environment builds among them, by outcome.",
		Buckets: []float64{.01, .03, .1, .3, 1, 3, 10, 30, 100, 300, 1000},
	}, []string{"phase", "outcome"})
	if reg != nil {
		reg.MustRegister(m.replicas, m.preparations, m.updates, m.phases)
	}
	return m
}

// see takes an endpoint's replicas into the count.
func (m *Metrics) see(id string, replicas []serving.Replica) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for state, n := range m.seen[id] {
		m.replicas.WithLabelValues(string(state)).Sub(float64(n))
	}
	delete(m.seen, id)
	if len(replicas) == 0 {
		return
	}
	now := map[serving.State]int{}
	for _, r := range replicas {
		now[r.State]++
	}
	for state, n := range now {
		m.replicas.WithLabelValues(string(state)).Add(float64(n))
	}
	m.seen[id] = now
}
