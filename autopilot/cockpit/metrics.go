package cockpit

import (
	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/serving"
)

// Metrics are what the cockpit counts. Labels: endpoint and entity by what is
// published; axis is replicas or line; rule as in rows.
type Metrics struct {
	want, line, demand *prometheus.GaugeVec
	decisions          *prometheus.CounterVec
}

// NewMetrics declares the cockpit's metrics in reg; nil declares them nowhere.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "loadline_autopilot_" + name, Help: help}, []string{"endpoint", "entity"})
	}
	m := &Metrics{
		want:   gauge("replicas_wanted", "Replicas that an entity should have."),
		line:   gauge("load_line", "Requests that one replica may carry at once."),
		demand: gauge("demand", "Requests in service at once, as estimated."),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loadline_autopilot_decisions_total",
			Help: "Decisions that changed something, by axis and rule."}, []string{"endpoint", "entity", "axis", "rule"}),
	}
	if reg != nil {
		reg.MustRegister(m.want, m.line, m.demand, m.decisions)
	}
	return m
}

func (m *Metrics) see(f *craft) {
	m.want.WithLabelValues(f.endpoint, f.entity).Set(float64(max(0, f.want)))
	m.line.WithLabelValues(f.endpoint, f.entity).Set(float64(f.line.Current()))
	m.demand.WithLabelValues(f.endpoint, f.entity).Set(f.last.Demand)
}

func (m *Metrics) decided(f *craft, d serving.Decision) {
	if d.From != d.To {
		m.decisions.WithLabelValues(f.endpoint, f.entity, d.Axis, d.Rule).Inc()
	}
}

func (m *Metrics) forget(f *craft) {
	labels := prometheus.Labels{"endpoint": f.endpoint, "entity": f.entity}
	m.want.DeletePartialMatch(labels)
	m.line.DeletePartialMatch(labels)
	m.demand.DeletePartialMatch(labels)
	m.decisions.DeletePartialMatch(labels)
}
