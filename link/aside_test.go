package link

import "testing"

// Places that nobody wants go to those who do not stand aside, also those that
// lie with one who comes to stand aside.
func TestWhoStandsAsideHoldsNothingIdle(t *testing.T) {
	a, b := new(holder), new(holder)
	p := places{line: 3, holders: []*holder{a, b}}
	p.divide()
	if a.granted+b.granted != 3 || a.granted == 0 || b.granted == 0 {
		t.Fatalf("granted %d and %d", a.granted, b.granted)
	}
	had := a.granted
	a.aside = true
	p.divide()
	if a.recalled != had {
		t.Fatalf("%d of %d asked back", a.recalled, had)
	}
	if !p.give(a, had, had) {
		t.Fatal("not taken back")
	}
	p.divide()
	if a.granted != 0 || b.granted != 3 {
		t.Errorf("granted %d and %d", a.granted, b.granted)
	}
	a.want = 2
	p.divide()
	if b.recalled != 2 {
		t.Errorf("%d asked back for one who wants two", b.recalled)
	}
	p.give(b, 2, 2)
	p.divide()
	if a.granted != 2 || b.granted != 1 {
		t.Errorf("granted %d and %d", a.granted, b.granted)
	}
	b.aside = true
	p.divide()
	if b.recalled != 0 {
		t.Error("where all stand aside, places lie where they are")
	}
}
