package main

import (
	"context"
	"errors"
	"math"
	"time"

	"go.uber.org/zap"
	autoscaling "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	podmetrics "k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	"knative.dev/serving/pkg/autoscaler/scaling"

	"loadline.dev/loadline/autopilot"
)

// A seen is what both rivals are shown: active requests, the mean of each second.
type seen struct {
	active []float64 // the last minutes, one a second
	ready  int
}

func (s *seen) Observe(o autopilot.Sample) {
	const keep = 120
	s.active = append(s.active, float64(o.InFlight+o.Waiting))
	if len(s.active) > keep {
		s.active = append(s.active[:0], s.active[len(s.active)-keep:]...)
	}
}

func (s *seen) mean(seconds int) float64 {
	n := min(seconds, len(s.active))
	if n == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range s.active[len(s.active)-n:] {
		sum += v
	}
	return sum / float64(n)
}

// A knative is Knative's own autoscaler code with its defaults: a stable window
// of a minute, a panic window of six seconds, a panic threshold of twice, ticks
// of two seconds, and thirty seconds of grace before the last replica goes.
type knative struct {
	seen
	scaler scaling.UniScaler
	next   time.Time
	want   int
	quiet  time.Time // since when it wished for none
}

func newKnative(target float64) *knative {
	k := &knative{}
	k.scaler = scaling.New(context.Background(), "bench", "bench", k, k, &scaling.DeciderSpec{
		MaxScaleUpRate: 1000, MaxScaleDownRate: 2, ScalingMetric: "concurrency", TargetValue: target, TotalValue: scalingCapacity,
		TargetBurstCapacity: 211, ActivatorCapacity: 100, PanicThreshold: 2, StableWindow: time.Minute, Reachable: true})
	return k
}

// StableAndPanicConcurrency is what Knative's collector would say.
func (k *knative) StableAndPanicConcurrency(types.NamespacedName, time.Time) (stable, panicking float64, err error) {
	return k.mean(60), k.mean(6), nil
}

// StableAndPanicRPS is not asked for.
func (k *knative) StableAndPanicRPS(types.NamespacedName, time.Time) (stable, panicking float64, err error) {
	return 0, 0, errors.New("scaled by concurrency")
}

func (k *knative) ReadyCount() (int, error)    { return k.ready, nil }
func (k *knative) NotReadyCount() (int, error) { return 0, nil }

func (k *knative) Decide(now time.Time, have autopilot.Fleet) autopilot.Decision {
	k.ready = have.Ready
	if !now.Before(k.next) {
		k.next = now.Add(2 * time.Second)
		if r := k.scaler.Scale(zap.NewNop().Sugar(), now); r.ScaleValid {
			k.want = int(r.DesiredPodCount)
		}
	}
	want := k.want
	switch {
	case want > 0:
		k.quiet = time.Time{}
	case k.quiet.IsZero():
		k.quiet = now
	}
	if want == 0 && now.Sub(k.quiet) < 30*time.Second {
		want = min(1, have.Ready+have.Starting)
	}
	return autopilot.Decision{Want: want}
}

func (k *knative) Wake(now time.Time, _ int, have autopilot.Fleet) autopilot.Decision {
	k.next = now // the activator pokes the autoscaler
	d := k.Decide(now, have)
	d.Want = max(1, d.Want)
	k.want = d.Want
	return d
}

// An hpa is Kubernetes' own replica calculator on the same metric, and the
// controller's defaults around it, which it does not export: a look each fifteen
// seconds, a tolerance of a tenth, at most twice the pods or four more each
// fifteen seconds up, and the most that was wanted in five minutes down.
type hpa struct {
	seen
	calculator *podautoscaler.ReplicaCalculator
	target     float64
	next       time.Time
	want       int
	wanted     []int // of the last five minutes
}

func newHPA(target float64) *hpa {
	h := &hpa{target: target}
	h.calculator = podautoscaler.NewReplicaCalculator(h, nil, 5*time.Minute, 30*time.Second)
	return h
}

// GetExternalMetric is the metric, in thousandths as the metrics API has it.
func (h *hpa) GetExternalMetric(string, string, labels.Selector) ([]int64, time.Time, error) {
	return []int64{int64(1000 * h.mean(15))}, time.Time{}, nil
}

var errOther = errors.New("scaled by active requests")

func (h *hpa) GetResourceMetric(context.Context, v1.ResourceName, string, labels.Selector, string) (podmetrics.PodMetricsInfo, time.Time, error) {
	return nil, time.Time{}, errOther
}

func (h *hpa) GetRawMetric(string, string, labels.Selector, labels.Selector) (podmetrics.PodMetricsInfo, time.Time, error) {
	return nil, time.Time{}, errOther
}

func (h *hpa) GetObjectMetric(string, string, *autoscaling.CrossVersionObjectReference, labels.Selector) (int64, time.Time, error) {
	return 0, time.Time{}, errOther
}

func (h *hpa) Decide(now time.Time, have autopilot.Fleet) autopilot.Decision {
	size := have.Ready + have.Starting
	if now.Before(h.next) {
		return autopilot.Decision{Want: h.want}
	}
	h.next = now.Add(15 * time.Second)
	h.want = max(1, size) // it has no zero
	usage := h.mean(15) / (h.target * float64(max(1, size)))
	n, _, _, err := h.calculator.GetExternalPerPodMetricReplicas(int32(h.want), int64(1000*h.target), "active",
		podautoscaler.Tolerances{}, "bench", &metav1.LabelSelector{})
	if err != nil || math.Abs(usage-1) <= 0.1 {
		n = int32(h.want)
	}
	wish := int(n)
	h.wanted = append(h.wanted, wish)
	if len(h.wanted) > 20 {
		h.wanted = h.wanted[1:]
	}
	most := 0
	for _, w := range h.wanted {
		most = max(most, w)
	}
	switch {
	case wish > h.want:
		h.want = min(wish, max(2*h.want, h.want+4))
	case wish < h.want:
		h.want = max(1, min(h.want, most))
	}
	return autopilot.Decision{Want: h.want}
}

func (h *hpa) Wake(now time.Time, _ int, have autopilot.Fleet) autopilot.Decision {
	d := h.Decide(now, have)
	d.Want = max(1, d.Want)
	h.want = d.Want
	return d
}
