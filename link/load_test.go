package link

import "testing"

// An agent outlives the server that started it, so a newer server hears older ones.
func TestLoadOfAnOlderAgentIsRead(t *testing.T) {
	l := Load{Sequence: 1, Line: 4, State: "ready", Counters: Counters{Answered: 9, Restarts: 2, Beside: 77, Inside: 88}, Pressure: Pressure{CPU: 1, Memory: 2, IOWait: 3, Throttled: 4}}
	b := appendLoad(nil, &l)
	b = b[headerSize : len(b)-6] // what it did not say takes a byte each
	got := Load{Counters: Counters{Beside: 1, Inside: 1}, Pressure: Pressure{CPU: 9}}
	if err := parseLoad(b, &got); err != nil {
		t.Fatal(err)
	}
	if l.Beside, l.Inside, l.Pressure = 0, 0, (Pressure{}); got != l {
		t.Errorf("got %+v, want %+v", got, l)
	}
}
