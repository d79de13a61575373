package gateway_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"loadline.dev/loadline/gateway"
	"loadline.dev/loadline/link"
)

// Every rule of strictness, as bytes on a socket, in the clear and through TLS:
// the status, that the connection is closed, and that nothing behind it is
// executed. What the parser makes of many more is told in gateway/http1.
func TestEveryRuleOfTheEdge(t *testing.T) {
	var executed atomic.Int64
	c, trust := encrypted(t, gateway.Config{})
	g, addr := start(t, c)
	g.Publish(iris(startAgent(t, "r", 9, func(_ context.Context, in *link.Incoming) {
		io.Copy(io.Discard, in)
		executed.Add(1)
		in.Reply(&link.Answer{Status: 200})
	}).replica()))
	begin := "POST " + iPath + " HTTP/1.1\r\nHost: a\r\n"
	chunked := begin + "Transfer-Encoding: chunked\r\n\r\n"
	line := func(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	for sentence, rule := range map[string]struct {
		raw    string
		status int
	}{
		"both Content-Length and Transfer-Encoding":      {begin + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"two Content-Length":                             {begin + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400},
		"folded Transfer-Encoding":                       {begin + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400},
		"unknown Transfer-Encoding":                      {begin + "Transfer-Encoding: gzip\r\n\r\n", 400},
		"doubled Transfer-Encoding":                      {begin + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"Transfer-Encoding on HTTP/1.0":                  {"POST " + iPath + " HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"a bad chunk size":                               {chunked + "0x0\r\n\r\n", 400},
		"a chunk extension over 1 kB":                    {chunked + "0;" + strings.Repeat("a", 1100) + "\r\n\r\n", 400},
		"a chunk extension of 5 kB":                      {chunked + "0;" + strings.Repeat("a", 5000) + "\r\n\r\n", 400},
		"NUL in a chunk extension":                       {chunked + "0;a=\x00\r\n\r\n", 400},
		"more chunk extensions than data":                {chunked + strings.Repeat("1;"+strings.Repeat("e", 900)+"\r\nx\r\n", 9) + "0\r\n\r\n", 400},
		"bare LF in a head":                              {begin + "X: y\nContent-Length: 0\r\n\r\n", 400},
		"bare LF in trailers":                            {chunked + "0\r\nX: y\n\r\n", 400},
		"NUL in a value":                                 {begin + "X: \x00\r\n\r\n", 400},
		"CR in a value":                                  {begin + "X: a\rb\r\n\r\n", 400},
		"an empty name":                                  {begin + ": b\r\n\r\n", 400},
		"a space in a name":                              {begin + "X Y: b\r\n\r\n", 400},
		"no Host":                                        {"POST " + iPath + " HTTP/1.1\r\nX: y\r\n\r\n", 400},
		"two Host":                                       {begin + "Host: a\r\n\r\n", 400},
		"absolute form with a foreign host":              {"POST http://b" + iPath + " HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"an underscore that shadows an identity field":   {begin + "X_Forwarded_For: 1\r\n\r\n", 400},
		"an underscore that shadows a framing field":     {begin + "Content_Length: 0\r\n\r\n", 400},
		"an expectation other than 100-continue":         {begin + "Expect: 200-ok\r\n\r\n", 417},
		"CONNECT":                                        {"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405},
		"PRI":                                            {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405},
		"a lower-case method":                            {"post " + iPath + " HTTP/1.1\r\nHost: a\r\n\r\n", 501},
		"more than 128 fields":                           {begin + strings.Repeat("X: y\r\n", 128) + "\r\n", 431},
		"a head over 32 kB":                              {begin + "X: " + strings.Repeat("y", 33<<10) + "\r\n\r\n", 431},
		"a target over 8 kB":                             {line("/" + strings.Repeat("x", 9000)), 414},
		"%00":                                            {line("/a%00b"), 400},
		"..%2f":                                          {line("/a/..%2fb"), 400},
		"//":                                             {line("//a"), 400},
		"/a/../":                                         {line("/a/../b"), 400},
		"Connection that names Authorization":            {begin + "Connection: keep-alive, Authorization\r\n\r\n", 400},
		"Connection that names a forwarding field":       {begin + "Connection: X-Forwarded-For\r\n\r\n", 400},
		"a broken chunk, which is the client's fault":    {chunked + "5\r\nhello!\r\n0\r\n\r\n", 400},
		"Content-Length past all bounds, before a byte":  {begin + "Content-Length: 1099511627776\r\n\r\n", 413},
		"Content-Length that is no number":               {begin + "Content-Length: 1e3\r\n\r\n", 400},
		"a line of nothing before the request":           {"\r\n" + begin + "\r\n", 400},
		"an identity field in trailers":                  {chunked + "0\r\nAuthorization: Bearer x\r\n\r\n", 400},
		"a version that is not spoken":                   {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
		"a Transfer-Encoding with something else hidden": {begin + "Transfer-Encoding: \x0bchunked\r\nContent-Length: 0\r\n\r\n", 400},
	} {
		for how, dial := range map[string]func() (net.Conn, error){
			"in the clear": func() (net.Conn, error) { return net.Dial("tcp", addr) },
			"through TLS":  func() (net.Conn, error) { return tls.Dial("tcp", addr, trust) },
		} {
			nc, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			nc.SetDeadline(time.Now().Add(10 * time.Second))
			go io.WriteString(nc, rule.raw+post(iPath, "smuggled"))
			all, _ := io.ReadAll(nc) // a reset after the answer is an end, too
			nc.Close()
			if got := string(all); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", rule.status)) || strings.Count(got, "X-Request-Id: ") != 1 ||
				!strings.Contains(got, "\r\nConnection: close\r\n") || executed.Load() != 0 {
				t.Errorf("%s, %s: %d executed, got %.300q", sentence, how, executed.Load(), got)
			}
		}
	}
	for sentence, raw := range map[string]string{
		"a query of 4 kB":    "POST " + iPath + "?" + strings.Repeat("q", 4096) + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"24 kB of fields":    begin + "Connection: close\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 24) + "\r\n",
		"an upgrade":         begin + "Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n",
		"other underscores":  begin + "Connection: close\r\nX_Mine: y\r\n\r\n",
		"a small extension":  begin + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n0;a=b\r\n\r\n",
		"pipelined requests": post(iPath, "one") + post(iPath, "two") + post(iPath, "three", last),
	} {
		if got := talk(t, addr, raw); strings.Count(got, "HTTP/1.1 200 ") != strings.Count(got, "HTTP/1.1 ") || got == "" {
			t.Errorf("%s is legal, got %.200q", sentence, got)
		}
	}
}
