package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
)

// Whoever says how much will come and then sends slowly holds no place of an
// engine of a user's own: others are answered meanwhile.
func TestSlowSendersHoldNoPlace(t *testing.T) {
	g, addr := start(t, gateway.Config{})
	g.Publish(raw(startAgent(t, "r", 1, func(_ context.Context, in *link.Incoming) {
		io.Copy(io.Discard, in)
		in.Reply(&link.Answer{Status: 200, Size: 2})
		in.Write([]byte("ok"))
	}).replica()))
	for range 3 {
		nc := dial(t, addr)
		fmt.Fprintf(nc, "POST /serving-endpoints/iris/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n%01000d", 7)
	}
	client := http.Client{Timeout: 5 * time.Second}
	for range 3 {
		a, err := client.Post("http://"+addr+"/serving-endpoints/iris/x", "text/csv", strings.NewReader("1"))
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if a.StatusCode != 200 {
			t.Errorf("answered %s", a.Status)
		}
	}
}
