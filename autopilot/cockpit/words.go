package cockpit

import (
	"slices"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/serving"
)

// sizeRules and lineRules are short names of the autopilot's rules. They are
// kept in rows and so must stay.
var sizeRules = map[autopilot.Why]string{
	autopilot.NoSignal: "no-signal", autopilot.OnDemand: "demand", autopilot.OnBurst: "burst", autopilot.OnTrend: "trend",
	autopilot.OnBacklog: "backlog", autopilot.Window: "window", autopilot.Unserved: "unserved", autopilot.KeepWarm: "warm",
	autopilot.Regular: "regular", autopilot.Asleep: "asleep", autopilot.Woken: "woken", autopilot.AtMin: "min",
	autopilot.AtMax: "max", autopilot.Fixed: "fixed", autopilot.Capped: "capped", autopilot.Share: "share",
}

var lineRules = map[autopilot.LineWhy]string{
	autopilot.LinePrior: "prior", autopilot.LineKnown: "known", autopilot.LineClimbs: "climbs", autopilot.LineProbes: "probe",
	autopilot.LineBelow: "below", autopilot.LinePeak: "peak", autopilot.LineSlow: "slow", autopilot.LineGuard: "guard",
	autopilot.LineLate: "late", autopilot.LineBroken: "broken", autopilot.LineMemory: "memory", autopilot.LineStarved: "starved",
	autopilot.LineIdle: "idle", autopilot.LineFixed: "fixed",
}

func sortByTime(all []serving.Decision) {
	slices.SortStableFunc(all, func(a, b serving.Decision) int { return a.At.Compare(b.At) })
}
