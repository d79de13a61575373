package gateway_test

import (
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"loadline.dev/loadline/gateway"
)

// h2spec runs the HTTP/2 conformance suite against a server and returns the
// cases that failed, of how many.
func h2spec(t *testing.T, program, addr string) (failed []string, cases int) {
	t.Helper()
	_, port, _ := net.SplitHostPort(addr)
	report := filepath.Join(t.TempDir(), "report.xml")
	out, err := exec.Command(program, "-t", "-k", "-h", "127.0.0.1", "-p", port, "-P", "/conforming", "-o", "2", "-j", report).CombinedOutput()
	data, unread := os.ReadFile(report)
	if unread != nil {
		t.Fatalf("%v: %v\n%s", err, unread, out)
	}
	var suites struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Package string `xml:"package,attr"`
				Name    string `xml:"classname,attr"`
				Failure *struct {
					Text string `xml:",chardata"`
				} `xml:"failure"`
				Error *struct {
					Text string `xml:",chardata"`
				} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &suites); err != nil {
		t.Fatal(err)
	}
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			cases++
			if c.Failure != nil || c.Error != nil {
				failed = append(failed, c.Package+": "+c.Name)
			}
		}
	}
	return failed, cases
}

// We keep to HTTP/2 at least as well as Go's own server does, by the same suite
// in the same run.
func TestHTTP2Conformance(t *testing.T) {
	program := os.Getenv("LOADLINE_H2SPEC")
	if program == "" {
		t.Skip("LOADLINE_H2SPEC names no h2spec; make test builds one")
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d bytes", len(body))
	})
	c, _ := encrypted(t, gateway.Config{API: answer})
	_, addr := start(t, c)
	plain := httptest.NewUnstartedServer(answer)
	plain.EnableHTTP2 = true
	plain.Config.ErrorLog = log.New(io.Discard, "", 0)
	plain.StartTLS()
	defer plain.Close()

	var ours, theirs []string
	var run [2]int
	var both sync.WaitGroup
	both.Go(func() { ours, run[0] = h2spec(t, program, addr) })
	both.Go(func() { theirs, run[1] = h2spec(t, program, plain.Listener.Addr().String()) })
	both.Wait()
	t.Logf("%d of %d cases passed, net/http %d of %d; failed here: %s; there: %s", run[0]-len(ours), run[0], run[1]-len(theirs), run[1],
		strings.Join(ours, ", "), strings.Join(theirs, ", "))
	if run[0] < 140 || run[0] != run[1] {
		t.Errorf("%d and %d cases: did the suite run?", run[0], run[1])
	}
	for _, c := range ours {
		if !slices.Contains(theirs, c) {
			t.Errorf("Go's own server passes %q", c)
		}
	}
}
