package link_test

import (
	"strings"
	"testing"

	"loadline.dev/loadline/link"
)

func TestGatewayMovesTheLineOfTheAgent(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.Lined = s.SetLine
	s.SetLine(2)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 2)
	p.Conn.SetLine(5)
	p.wait(t, 3)
	p.Conn.SetLine(5) // said already
	p.Conn.SetLine(0) // says nothing
	p.Conn.SetLine(1)
	p.wait(t, -4)
}

func TestAgentThatMindsNoLineKeepsItsOwn(t *testing.T) {
	s := link.NewServer(echo, nil)
	s.SetLine(2)
	p := connect(t, s, link.Hooks{})
	p.wait(t, 2)
	p.Conn.SetLine(5)
	if got, err := ask(p.Conn, "still there"); err != nil || !strings.HasSuffix(got, "still there") {
		t.Errorf("got %q, %v", got, err)
	}
	p.wait(t, 0)
}
