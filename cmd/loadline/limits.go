package main

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"loadline.dev/loadline/serving"
)

// limits are what every replica is held to, as the operator set it; zero where
// nothing was said. They are part of a revision: changed limits mean new replicas.
func (s *shell) limits() serving.Limits {
	var l serving.Limits
	if v := s.settings.text("start-timeout"); v != "" {
		l.Start, _ = positive(v) // checked when the settings were read
	}
	if v := s.settings.text("request-timeout"); v != "" {
		l.Request, _ = positive(v)
	}
	if v := s.settings.text("memory"); v != "" {
		l.Memory, _ = bytesOf(v)
	}
	return l
}

func positive(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil && d <= 0 {
		err = errors.New("it must be more than nothing")
	}
	return d, err
}

// leastMemory is what an interpreter needs to say that it has too little.
const leastMemory = 64 << 20

// bytesOf reads a size: a number, with K, M, G or T for powers of 1024.
func bytesOf(text string) (int64, error) {
	number := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text), "B"), "I")
	shift := 0
	for i, unit := range "KMGT" {
		if rest, ok := strings.CutSuffix(number, string(unit)); ok {
			number, shift = rest, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case err != nil:
		return 0, err
	case n < 0 || n > math.MaxInt64>>shift:
		return 0, errors.New("it is beyond all bounds")
	case n<<shift < leastMemory:
		return 0, errors.New("no Python starts in so little")
	}
	return n << shift, nil
}
