package link

import (
	"testing"

	"pgregory.net/rapid"
)

// A client in the model holds what it was granted and answers recalls honestly.
type modelClient struct {
	h      holder
	places int
	asked  []int // recalls not yet answered
}

// Whatever gateways and the agent do, no more requests than the load line can
// be inside at once, and when all is quiet every place is with somebody.
func TestPlacesNeverExceedTheLineAndAreNeverLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &places{line: rapid.IntRange(0, 8).Draw(t, "line")}
		top := p.line // the highest line whose grants may still be out
		var clients []*modelClient
		byHolder := map[*holder]*modelClient{}
		divide := func() {
			for _, m := range p.divide() {
				c := byHolder[m.to]
				c.places += m.grant
				if m.recall > 0 {
					c.asked = append(c.asked, m.recall)
				}
			}
			if p.used() <= p.line {
				top = p.line
			}
			if p.used() > top {
				t.Fatalf("%d places are used or granted, the line is %d", p.used(), top)
			}
		}
		answer := func(c *modelClient) {
			asked := c.asked[0]
			c.asked = c.asked[1:]
			given := min(asked, c.places)
			c.places -= given
			if !p.give(&c.h, asked, given) {
				t.Fatal("an honest return was refused")
			}
			divide()
		}
		pick := func(t *rapid.T, fit func(*modelClient) bool) *modelClient {
			var some []*modelClient
			for _, c := range clients {
				if fit(c) {
					some = append(some, c)
				}
			}
			if len(some) == 0 {
				t.Skip("nobody fits")
			}
			return rapid.SampledFrom(some).Draw(t, "client")
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				c := &modelClient{}
				byHolder[&c.h] = c
				clients = append(clients, c)
				p.holders = append(p.holders, &c.h)
				divide()
			},
			"want": func(t *rapid.T) {
				pick(t, func(*modelClient) bool { return true }).h.want = rapid.IntRange(0, 10).Draw(t, "want")
				divide()
			},
			"open": func(t *rapid.T) {
				c := pick(t, func(c *modelClient) bool { return c.places > 0 })
				c.places--
				if !p.open(&c.h) {
					t.Fatal("a granted place was refused")
				}
			},
			"leave": func(t *rapid.T) {
				p.leave(&pick(t, func(c *modelClient) bool { return c.h.inside > 0 }).h)
				divide()
			},
			"answer": func(t *rapid.T) { answer(pick(t, func(c *modelClient) bool { return len(c.asked) > 0 })) },
			"line": func(t *rapid.T) {
				p.line = rapid.IntRange(0, 8).Draw(t, "line")
				top = max(top, p.line)
				divide()
			},
			"": func(t *rapid.T) {},
		})
		if len(clients) == 0 {
			return
		}
		for again := true; again; {
			again = false
			for _, c := range clients {
				for len(c.asked) > 0 {
					again = true
					answer(c)
				}
				for c.h.inside > 0 {
					again = true
					p.leave(&c.h)
					divide()
				}
			}
		}
		held, hungry := 0, p.hungry()
		for _, c := range clients {
			if c.places != c.h.granted || c.h.recalled != 0 {
				t.Fatalf("a client holds %d places, the agent believes %d (%d recalled)", c.places, c.h.granted, c.h.recalled)
			}
			held += c.places
		}
		if held != p.line {
			t.Fatalf("%d places are held when all is quiet, want %d", held, p.line)
		}
		for _, c := range clients {
			if hungry > 0 && c.h.idle() > 0 {
				t.Fatalf("a client keeps %d idle places while %d more are wanted", c.h.idle(), hungry)
			}
		}
	})
}

func TestWhoHasLeastIsServedFirst(t *testing.T) {
	a, b := &holder{want: 100}, &holder{want: 2}
	p := &places{line: 6, holders: []*holder{a, b}}
	p.divide()
	if a.granted != 4 || b.granted != 2 {
		t.Errorf("granted %d and %d, want 4 and 2", a.granted, b.granted)
	}
}

func TestPlacesOfOrphansStayTaken(t *testing.T) {
	a, b := &holder{}, &holder{}
	p := &places{line: 2, holders: []*holder{a, b}}
	p.divide()
	p.open(a)
	p.part(a)
	p.divide()
	if p.inside() != 1 || b.granted != 1 {
		t.Errorf("%d inside, %d granted; want 1 and 1", p.inside(), b.granted)
	}
	p.leave(a)
	p.divide()
	if p.inside() != 0 || b.granted != 2 {
		t.Errorf("%d inside, %d granted; want 0 and 2", p.inside(), b.granted)
	}
}
