package balance_test

import (
	"fmt"
	"slices"
	"testing"

	"loadline.dev/loadline/gateway/balance"
)

func TestHomesAreEvenAndStay(t *testing.T) {
	gateways := []string{"g1", "g2", "g3", "g4"}
	const keys = 8000
	count, moved := map[string]int{}, 0
	for i := range keys {
		key := fmt.Sprintf("endpoint-%d/entity", i)
		home := balance.Home(key, gateways)
		count[home]++
		turned := slices.Clone(gateways)
		slices.Reverse(turned)
		if other := balance.Home(key, turned); other != home {
			t.Fatalf("%s lives at %s or %s, depending on who asks", key, home, other)
		}
		left := slices.DeleteFunc(slices.Clone(gateways), func(g string) bool { return g == "g2" })
		switch next := balance.Home(key, left); {
		case home != "g2" && next != home:
			t.Fatalf("%s moved from %s to %s although neither left", key, home, next)
		case home == "g2":
			moved++
		}
	}
	for _, g := range gateways {
		if n := count[g]; n < keys/5 || n > keys*3/10 {
			t.Errorf("%s is home to %d of %d", g, n, keys)
		}
	}
	if moved != count["g2"] {
		t.Errorf("%d moved", moved)
	}
	if balance.Home("a", nil) != "" || balance.Home("a", []string{"g"}) != "g" {
		t.Error("with none or one there is no choice")
	}
	if n := testing.AllocsPerRun(100, func() { balance.Home("endpoint/entity", gateways) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
