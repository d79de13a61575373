package rest

import (
	"slices"
	"strings"
)

// Databricks: ServedEntityInput.workload_size and workload_type.
var (
	workloadSizes = []string{"Small", "Medium", "Large"}
	workloadTypes = []string{"CPU", "CPU_MEDIUM", "CPU_LARGE", "GPU_SMALL", "GPU_MEDIUM", "GPU_LARGE", "GPU_XLARGE", "GPU_XLARGE_8", "MULTIGPU_MEDIUM"}
)

// step is what provisioned concurrency is counted in.
const step = 4

// readSize checks what a served entity says of its size. It is echoed; how many
// replicas carry it is the sizer's business.
func readSize(r *reader, zero bool) {
	size, kind := r.text("workload_size"), r.text("workload_type")
	if size != "" && !slices.Contains(workloadSizes, size) {
		r.fail("%s %.60q is unknown; known are %s", r.path("workload_size"), size, strings.Join(workloadSizes, ", "))
	}
	if kind != "" && !slices.Contains(workloadTypes, kind) {
		r.fail("%s %.60q is unknown; known are %s", r.path("workload_type"), kind, strings.Join(workloadTypes, ", "))
	}
	least, hasLeast := r.number("min_provisioned_concurrency")
	most, hasMost := r.number("max_provisioned_concurrency")
	switch {
	case size != "" && (hasLeast || hasMost):
		r.fail("%s excludes min_provisioned_concurrency and max_provisioned_concurrency; give one or the other", r.path("workload_size"))
	case least < 0 || most < 0:
		r.fail("%s: provisioned concurrency must not be negative", r.where)
	case least%step != 0 || most%step != 0:
		r.fail("%s: provisioned concurrency must be a multiple of %d", r.where, step)
	case hasMost && least > most:
		r.fail("%s: min_provisioned_concurrency %d is more than max_provisioned_concurrency %d", r.where, least, most)
	case hasLeast && least == 0 && !zero:
		r.fail("%s: min_provisioned_concurrency 0 needs scale_to_zero_enabled", r.where)
	}
	for _, key := range []string{"min_provisioned_throughput", "max_provisioned_throughput", "provisioned_model_units"} {
		if n, _ := r.number(key); n != 0 {
			r.miss(key, "tokens are not provisioned by this version")
		}
	}
}
