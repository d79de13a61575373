package gateway

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/link"
)

// metrics are the gateway's own. Labels are bounded: endpoint and entity by
// what is published, code by classes, phase by the list below.
type metrics struct {
	requests *prometheus.CounterVec   // endpoint, entity, code
	seconds  *prometheus.HistogramVec // endpoint, entity, phase
	retries  *prometheus.CounterVec   // endpoint, entity
	cold     *prometheus.CounterVec   // endpoint, entity
	crossed  *prometheus.CounterVec   // endpoint, entity, as: columns, raw
	calls    *prometheus.CounterVec   // endpoint, entity, requests: link.CallSizes
	limited  *prometheus.CounterVec   // endpoint, by: rate, in-flight, share
	refusals *prometheus.CounterVec   // status: of what is no request
	others   *prometheus.CounterVec   // code: of the API, and of endpoints that do not exist
	dropped  prometheus.Counter
	crowded  prometheus.Counter

	g *Gateway

	inFlight, waiting, replicas, connections *prometheus.Desc
}

// Phases of a request that are timed.
const (
	edge   = "edge"   // from its head to the end of its body
	wait   = "wait"   // until it has a place
	engine = "engine" // until the head of the answer is there
	whole  = "whole"  // until the answer was sent
)

// buckets reach from the cost of the path itself to the longest request.
var buckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}

func newMetrics(g *Gateway) *metrics {
	name := func(n string) string { return "loadline_gateway_" + n }
	counter := func(n, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(n), Help: help}, labels)
	}
	m := &metrics{
		g:        g,
		requests: counter("requests_total", "Requests to entities, by class of answer; \"left\" had a client that did not stay.", "endpoint", "entity", "code"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name("request_seconds"), Buckets: buckets,
			Help: "Time of requests by phase: edge reads, wait is for a place, engine until the answer begins, whole is all of it."}, []string{"endpoint", "entity", "phase"}),
		retries:  counter("retries_total", "Requests sent on because a replica had not taken them.", "endpoint", "entity"),
		cold:     counter("cold_starts_total", "Requests that found no replica and waited for one.", "endpoint", "entity"),
		crossed:  counter("crossed_total", "Requests by how they crossed to the Python worker, as its agents report: columns parsed here, or the raw bytes.", "endpoint", "entity", "as"),
		calls:    counter("model_calls_total", "Calls of a model whose waiting requests may share one, by the most requests that were in it: 1, 2, 4 (3 or 4), 8 and so on.", "endpoint", "entity", "requests"),
		limited:  counter("limited_total", "Requests refused by a limit of their endpoint: its rate, its requests in flight, or its share of the gateway.", "endpoint", "by"),
		refusals: counter("refused_total", "Byte streams that were no requests, by status.", "status"),
		others:   counter("other_requests_total", "Requests to anything but a served entity, by class of answer.", "code"),
		dropped:  prometheus.NewCounter(prometheus.CounterOpts{Name: name("dropped_fields_total"), Help: "Header fields left out because of an underscore in their name."}),
		crowded:  prometheus.NewCounter(prometheus.CounterOpts{Name: name("crowded_connections_total"), Help: "Connections turned away because there were too many."}),

		inFlight:    prometheus.NewDesc(name("in_flight"), "Requests in the gateway, those that wait included.", []string{"endpoint", "entity"}, nil),
		waiting:     prometheus.NewDesc(name("waiting"), "Requests that wait for a place.", []string{"endpoint", "entity"}, nil),
		replicas:    prometheus.NewDesc(name("replicas"), "Replicas that may take requests.", []string{"endpoint", "entity"}, nil),
		connections: prometheus.NewDesc(name("connections"), "Client connections.", nil, nil),
	}
	if g.Metrics != nil {
		g.Metrics.MustRegister(m.requests, m.seconds, m.retries, m.cold, m.crossed, m.calls, m.limited, m.refusals, m.others, m.dropped, m.crowded, m)
	}
	return m
}

// Describe and Collect read what is counted elsewhere anyway.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.inFlight, m.waiting, m.replicas, m.connections} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for ep := range m.g.table.Load().All {
		for _, e := range ep.entities {
			gauge(m.inFlight, int(e.inFlight.Load()), e.endpoint, e.name)
			gauge(m.waiting, e.gate.Waiting(), e.endpoint, e.name)
			gauge(m.replicas, len(*e.replicas.Load()), e.endpoint, e.name)
		}
	}
	m.g.mu.Lock()
	conns := len(m.g.conns)
	m.g.mu.Unlock()
	gauge(m.connections, conns)
}

func (m *metrics) refused(status int) { m.refusals.WithLabelValues(strconv.Itoa(status)).Inc() }
func (m *metrics) limit(e *endpoint, by string) {
	m.limited.WithLabelValues(e.route.Endpoint, by).Inc()
}
func (m *metrics) unrouted(status int) { m.others.WithLabelValues(class(status)).Inc() }
func (m *metrics) api(status int)      { m.others.WithLabelValues(class(status)).Inc() }

func class(status int) string {
	if status < 100 || status > 599 {
		return clientLeft
	}
	return strconv.Itoa(status/100) + "xx"
}

const clientLeft = "left"

// meters are an entity's own counters, looked up once.
type meters struct {
	codes                     [6]prometheus.Counter // by status ÷ 100; the first is clientLeft
	edge, wait, engine, whole prometheus.Observer
	retries, cold             prometheus.Counter
	columns, raw              prometheus.Counter
	calls                     [len(link.CallSizes)]prometheus.Counter
	shown                     atomic.Int64 // the second of the last exemplar
}

func (m *metrics) entity(e *entity) *meters {
	t := &meters{
		edge:    m.seconds.WithLabelValues(e.endpoint, e.name, edge),
		wait:    m.seconds.WithLabelValues(e.endpoint, e.name, wait),
		engine:  m.seconds.WithLabelValues(e.endpoint, e.name, engine),
		whole:   m.seconds.WithLabelValues(e.endpoint, e.name, whole),
		retries: m.retries.WithLabelValues(e.endpoint, e.name),
		cold:    m.cold.WithLabelValues(e.endpoint, e.name),
		columns: m.crossed.WithLabelValues(e.endpoint, e.name, "columns"),
		raw:     m.crossed.WithLabelValues(e.endpoint, e.name, "raw"),
	}
	for i, n := range link.CallSizes {
		t.calls[i] = m.calls.WithLabelValues(e.endpoint, e.name, strconv.Itoa(n))
	}
	for i := range t.codes {
		t.codes[i] = m.requests.WithLabelValues(e.endpoint, e.name, class(100*i))
	}
	return t
}

// forget drops what was counted for an entity that is gone.
func (m *metrics) forget(e *entity) {
	labels := prometheus.Labels{"endpoint": e.endpoint, "entity": e.name}
	m.requests.DeletePartialMatch(labels)
	m.seconds.DeletePartialMatch(labels)
	m.retries.DeletePartialMatch(labels)
	m.cold.DeletePartialMatch(labels)
	m.crossed.DeletePartialMatch(labels)
	m.calls.DeletePartialMatch(labels)
}

// times are the moments of one request; zero was not reached.
type times struct {
	ready, placed, answered time.Time
	torn                    bool // the answer broke after it had begun
}

// observe counts a request that has ended.
func (t *meters) observe(r *request) {
	status := r.c.answer.status
	if r.c.interrupted() == left {
		status = 0
	}
	if r.times.torn && status != 0 {
		status = 502 // what the client saw is a closed connection
	}
	if status < 600 {
		t.codes[status/100].Inc()
	}
	example, since := t.example(r.c), r.started
	for _, p := range []struct {
		at time.Time
		of prometheus.Observer
	}{{r.times.ready, t.edge}, {r.times.placed, t.wait}, {r.times.answered, t.engine}} {
		if p.at.IsZero() {
			break
		}
		see(p.of, p.at.Sub(since), example)
		since = p.at
	}
	now := time.Now()
	see(t.whole, now.Sub(r.started), example)
	if !r.times.answered.IsZero() {
		r.e.took.add(now.Sub(r.times.placed))
	}
	if !r.times.ready.IsZero() && !r.passed {
		r.e.tally.observe(!r.times.placed.IsZero(), r.times.placed.Sub(r.times.ready), now.Sub(r.times.placed), r.e.patience.Load(), status >= 500)
	}
}

// example names the trace of the request, for a histogram to point at, if
// somebody records that trace. One a second is enough, and costs what a request
// must not.
func (t *meters) example(c *conn) prometheus.Labels {
	if !c.traced.sampled {
		return nil
	}
	last, second := t.shown.Load(), c.g.now()/1e9+1
	if last == second || !t.shown.CompareAndSwap(last, second) {
		return nil
	}
	return prometheus.Labels{"trace_id": c.traced.id()}
}

func see(o prometheus.Observer, took time.Duration, example prometheus.Labels) {
	if example != nil {
		if with, ok := o.(prometheus.ExemplarObserver); ok {
			with.ObserveWithExemplar(took.Seconds(), example)
			return
		}
	}
	o.Observe(took.Seconds())
}
