package rest

import (
	"encoding/json"
	"fmt"
	"net/http"

	"loadline.dev/loadline/serving"
)

// parseRates reads a list of RateLimit. Databricks: key is user or endpoint, the
// latter unless it is said; renewal_period is minute. With own, keys may be
// token too, and periods second, hour and day.
func parseRates(where string, list []json.RawMessage, own bool) ([]serving.Rate, error) {
	var rates []serving.Rate
	for i, raw := range list {
		r := newReader(fmt.Sprintf("%s[%d]", where, i), raw)
		calls, said := r.number("calls")
		key, period := r.text("key"), r.text("renewal_period")
		if r.err != nil {
			return nil, r.err
		}
		if key == "" {
			key = serving.PerEndpoint
		}
		if period == "" {
			period = "minute"
		}
		length, known := serving.ParsePeriod(period)
		switch {
		case !said:
			return nil, invalid("%s.calls is missing: how many calls are allowed in each %s", r.where, period)
		case !own && key != serving.PerUser && key != serving.PerEndpoint:
			return nil, invalid("%s.key is %.40q; it must be user or endpoint", r.where, key)
		case !own && period != "minute":
			return nil, invalid("%s.renewal_period is %.40q; it must be minute", r.where, period)
		case !known:
			return nil, invalid("%s.renewal_period is %.40q; it must be second, minute, hour or day", r.where, period)
		}
		if own {
			if err := r.strict(); err != nil {
				return nil, err
			}
		}
		rates = append(rates, serving.Rate{Calls: calls, Period: length, Per: key})
	}
	if err := serving.CheckQuota(serving.Quota{Rates: rates}); err != nil {
		return nil, err
	}
	return rates, nil
}

// A RateView is a rate limit as both APIs tell of it.
type RateView struct {
	Calls  int    `json:"calls"`
	Key    string `json:"key"`
	Period string `json:"renewal_period"`
}

func rateViews(rates []serving.Rate) []RateView {
	list := []RateView{}
	for _, r := range rates {
		list = append(list, RateView{r.Calls, r.Per, serving.PeriodName(r.Period)})
	}
	return list
}

// String is the limit as --rate-limit takes it.
func (v RateView) String() string { return fmt.Sprintf("%d/%s:%s", v.Calls, v.Period, v.Key) }

// putRateLimits replaces an endpoint's rate limits.
func (a *api) putRateLimits(w http.ResponseWriter, r *http.Request) error {
	data, err := body(w, r)
	if err != nil {
		return err
	}
	br := newReader("", data)
	list := br.list("rate_limits")
	if br.err != nil {
		return br.err
	}
	rates, err := parseRates("rate_limits", list, false)
	if err != nil {
		return err
	}
	e, err := a.Desk.SetQuota(r.Context(), a.Who(r).Tenant, r.PathValue("name"), func(q *serving.Quota) { q.Rates = rates })
	if err != nil {
		return err
	}
	warn(w, br.unknown())
	writeJSON(w, http.StatusOK, map[string]any{"rate_limits": rateViews(e.Quota.Rates)})
	return nil
}

// readQuota reads what our own API says of limits; what it does not mention
// stays as it is. It reports whether anything was said.
func readQuota(r *reader) (edit func(*serving.Quota), said bool) {
	raw, hasRates := r.take("rate_limits")
	most, hasMost := r.number("max_in_flight")
	var rates []serving.Rate
	if hasRates {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil {
			r.wrong("rate_limits", "a list", raw)
		}
		var err error
		if rates, err = parseRates(r.path("rate_limits"), list, true); err != nil && r.err == nil {
			r.err = err
		}
	}
	if hasMost && most < 0 {
		r.fail("max_in_flight is %d; it must be 0, which is no bound, or more", most)
	}
	return func(q *serving.Quota) {
		if hasRates {
			q.Rates = rates
		}
		if hasMost {
			q.InFlight = most
		}
	}, hasRates || hasMost
}

// limits changes an endpoint's limits without a new config.
func (a *api) limits(w http.ResponseWriter, r *http.Request) error {
	br, err := ownBody(w, r)
	if err != nil {
		return err
	}
	edit, _ := readQuota(br)
	if err := br.strict(); err != nil {
		return err
	}
	e, err := a.Desk.SetQuota(r.Context(), a.Who(r).Tenant, r.PathValue("name"), edit)
	if err != nil {
		return err
	}
	return a.show(w, r, e)
}
