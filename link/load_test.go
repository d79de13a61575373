package link

import (
	"encoding/binary"
	"testing"
)

// An agent outlives the server that started it, so a newer server hears older ones.
func TestLoadOfAnOlderAgentIsRead(t *testing.T) {
	want := Load{Sequence: 1, Line: 4, State: "ready", Counters: Counters{Answered: 9, Restarts: 2}}
	var b []byte
	for _, n := range []uint64{want.Sequence, 0, 0, uint64(want.Line), 0} {
		b = binary.AppendUvarint(b, n)
	}
	b = appendText(b, string(want.State))
	counters := want.Counters.list()
	for _, n := range counters[:oldCounters] {
		b = binary.AppendUvarint(b, *n)
	}
	got := Load{Counters: Counters{Beside: 1, Inside: 1}, Pressure: Pressure{CPU: 9}}
	if err := parseLoad(b, &got); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
