package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/rest"
	"loadline.dev/loadline/serving"
)

// limits adds --rate-limit and --max-in-flight to the order.
func limits(cmd *cobra.Command, order map[string]any) error {
	f := cmd.Flags()
	if f.Changed("max-in-flight") {
		order["max_in_flight"], _ = f.GetInt("max-in-flight")
	}
	if !f.Changed("rate-limit") {
		return nil
	}
	said, _ := f.GetStringArray("rate-limit")
	list := []rest.RateView{}
	for _, text := range said {
		if text == "none" && len(said) == 1 {
			break
		}
		v, err := readRate(text)
		if err != nil {
			return err
		}
		list = append(list, v)
	}
	order["rate_limits"] = list
	return nil
}

// readRate reads CALLS/PERIOD[:KEY].
func readRate(text string) (rest.RateView, error) {
	rate, key, keyed := strings.Cut(text, ":")
	calls, period, ok := strings.Cut(rate, "/")
	n, err := strconv.Atoi(calls)
	if !keyed {
		key = serving.PerEndpoint
	}
	length, known := serving.ParsePeriod(period)
	if !ok || err != nil || !known {
		return rest.RateView{}, usage("--rate-limit %q is not CALLS/PERIOD[:KEY]: like 100/minute or 5/second:user; periods are second, minute, hour, day", text)
	}
	if err := serving.CheckQuota(serving.Quota{Rates: []serving.Rate{{Calls: n, Period: length, Per: key}}}); err != nil {
		return rest.RateView{}, usage("--rate-limit %q: %v", text, err)
	}
	return rest.RateView{Calls: n, Key: key, Period: period}, nil
}

// limitLine tells the limits of an endpoint; empty when there are none.
func limitLine(v rest.View) string {
	var parts []string
	for _, r := range v.Rates {
		parts = append(parts, r.String())
	}
	if v.InFlight > 0 {
		parts = append(parts, fmt.Sprintf("%d in flight", v.InFlight))
	}
	return strings.Join(parts, ", ")
}
