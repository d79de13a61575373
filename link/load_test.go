package link

import "testing"

// An agent outlives the server that started it, so a newer server hears older ones.
func TestLoadOfAnOlderAgentIsRead(t *testing.T) {
	l := Load{Sequence: 1, Line: 4, State: "ready", Counters: Counters{Answered: 9, Restarts: 2, Beside: 77, Inside: 88}}
	b := appendLoad(nil, &l)
	b = b[headerSize : len(b)-2] // the two last counters take a byte each
	got := Load{Counters: Counters{Beside: 1, Inside: 1}}
	if err := parseLoad(b, &got); err != nil {
		t.Fatal(err)
	}
	if l.Beside, l.Inside = 0, 0; got != l {
		t.Errorf("got %+v, want %+v", got, l)
	}
}
