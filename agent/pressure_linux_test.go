package agent

import (
	"os"
	"testing"
	"time"
)

func TestGaugeReadsWhatAProcessUses(t *testing.T) {
	const limit = 1 << 30
	var g gauge
	now := time.Now()
	if p := g.read(os.Getpid(), limit, now); p == nil || p.Memory == 0 || p.CPU != 0 {
		t.Fatalf("at first it reads %+v", p)
	}
	g.busy -= 500 * time.Millisecond // as if it had worked since
	if p := g.read(os.Getpid(), limit, now.Add(time.Second)); p == nil || p.CPU == 0 || p.Memory == 0 || p.Memory > 1000 {
		t.Errorf("then it reads %+v", p)
	}
	if p := g.read(1<<30, limit, now); p != nil {
		t.Errorf("of no process it reads %+v", p)
	}
}

func TestStatOfAProcessWithAnyName(t *testing.T) {
	const rest = " S 1 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 100 4096 77 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 30 0 0 0 0"
	for name, stat := range map[string]string{"plain": "7 (python3)" + rest, "hostile": "7 (a) S 9 9 (b)" + rest} {
		busy, wait, pages, ok := parseStat([]byte(stat))
		if !ok || busy != 3*time.Second || wait != 300*time.Millisecond || pages != 77 {
			t.Errorf("%s: %v %v %v %v", name, busy, wait, pages, ok)
		}
	}
	for _, bad := range []string{"", "7 (x", "7 (x) S 1", "7 (x)" + rest[:60]} {
		if _, _, _, ok := parseStat([]byte(bad)); ok {
			t.Errorf("%q is taken for one", bad)
		}
	}
}
