package serving

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Quota bounds what callers may use of an endpoint. The zero Quota bounds nothing.
type Quota struct {
	Rates []Rate

	// InFlight is how many requests there may be at once, those that wait
	// included. Zero is no bound.
	InFlight int
}

// A Rate is how often an endpoint may be called.
type Rate struct {
	Calls  int           // within each Period; zero allows none
	Period time.Duration // one of a second, a minute, an hour, a day
	Per    string        // whose calls are counted together: [PerEndpoint], [PerUser], [PerToken]
}

// Whose calls are counted together.
const (
	PerEndpoint = "endpoint" // everybody's
	PerUser     = "user"     // of those of one name
	PerToken    = "token"    // of those who show the same token
)

// periods are those that a rate may have, by name.
var periods = []struct {
	name string
	long time.Duration
}{{"second", time.Second}, {"minute", time.Minute}, {"hour", time.Hour}, {"day", 24 * time.Hour}}

// PeriodName is the word for a period of a [Rate].
func PeriodName(d time.Duration) string {
	for _, p := range periods {
		if p.long == d {
			return p.name
		}
	}
	return d.String()
}

// ParsePeriod reads the word for a period.
func ParsePeriod(word string) (time.Duration, bool) {
	for _, p := range periods {
		if p.name == word {
			return p.long, true
		}
	}
	return 0, false
}

// MaxRates bounds [Quota.Rates].
const MaxRates = 12

// CheckQuota says what is wrong with a quota.
func CheckQuota(q Quota) error {
	if len(q.Rates) > MaxRates {
		return &Error{Kind: Invalid, Err: fmt.Errorf("%d rate limits; at most %d are allowed", len(q.Rates), MaxRates)}
	}
	if q.InFlight < 0 || q.InFlight > maxCalls {
		return &Error{Kind: Invalid, Err: fmt.Errorf("%d requests in flight; it must be 0 (no bound) to %d", q.InFlight, maxCalls)}
	}
	for i, r := range q.Rates {
		switch {
		case r.Calls < 0 || r.Calls > maxCalls:
			return &Error{Kind: Invalid, Err: fmt.Errorf("rate limit of %d calls; it must be 0 to %d", r.Calls, maxCalls)}
		case r.Per != PerEndpoint && r.Per != PerUser && r.Per != PerToken:
			return &Error{Kind: Invalid, Err: fmt.Errorf("rate limit per %.40q; it must be per %s, %s or %s", r.Per, PerEndpoint, PerUser, PerToken)}
		case !known(r.Period):
			return &Error{Kind: Invalid, Err: fmt.Errorf("rate limit for each %v; it must be for each second, minute, hour or day", r.Period)}
		}
		if slices.ContainsFunc(q.Rates[:i], func(o Rate) bool { return o.Per == r.Per && o.Period == r.Period }) {
			return &Error{Kind: Invalid, Err: fmt.Errorf("two rate limits per %s for each %s", r.Per, PeriodName(r.Period))}
		}
	}
	return nil
}

func known(period time.Duration) bool {
	_, ok := ParsePeriod(PeriodName(period))
	return ok
}

const maxCalls = 1_000_000_000

// Equal reports whether two quotas allow the same.
func (q Quota) Equal(o Quota) bool { return q.InFlight == o.InFlight && slices.Equal(q.Rates, o.Rates) }

// String is the quota in words: "make 100 calls a minute per user".
func (q Quota) String() string {
	var parts []string
	for _, r := range q.Rates {
		parts = append(parts, fmt.Sprintf("make %d calls a %s per %s", r.Calls, PeriodName(r.Period), r.Per))
	}
	if q.InFlight > 0 {
		parts = append(parts, fmt.Sprintf("have %d requests in flight", q.InFlight))
	}
	if len(parts) == 0 {
		return "call without limit"
	}
	return strings.Join(parts, ", ")
}

// Calls are how many requests of the last second asked an endpoint whose rates
// several gateways deal out among them.
type Calls struct {
	Tenant, Endpoint string

	Mine     int // of one gateway
	All      int // of all of them
	Gateways int // how many there are
}
