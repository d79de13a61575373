package faults

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// Models that must not become ready, what is to be said of each, and nothing
// of them may be left.
func TestBadModelsFailWithTheirReason(t *testing.T) {
	need(t)
	shared.watch(t)
	cases := map[string]struct {
		model string
		env   string
		why   []string // all of it stands in what deploy says
		not   string
	}{
		"41 a loader that nobody wrote":      {model: "no-loader", why: []string{"No module named 'nobody'", "pip_requirements", "--build"}},
		"41 os for a loader":                 {model: "os-loader", why: []string{"_load_pyfunc"}},
		"51 an index of its own":             {model: "option-line", why: []string{"--index-url http://evil.example/simple", "requirements.txt"}},
		"51 an editable package":             {model: "editable", why: []string{"-e .", "requirements.txt"}},
		"51 a repository":                    {model: "git", why: []string{"git+ssh://", "requirements.txt"}},
		"51 a file of the machine":           {model: "file-line", why: []string{"file:///etc/passwd", "requirements.txt"}, not: "root:"},
		"51 pins that exclude each other":    {model: "conflict", why: []string{"numpy==1.0", "numpy==2.0"}},
		"52 a Python of the past":            {model: "python-2.7", why: []string{"2.7", "3.11"}},
		"52 a Python of the future":          {model: "python-3.99", why: []string{"3.99", "3.11"}},
		"53 packages that pip does not have": {model: "conda", why: []string{"cudatoolkit"}},
		"48 raises while it is loaded":       {model: "puppet", env: `{"do": "shout", "what": "value"}`, why: []string{"ValueError: the decisive line"}},
		"48 ends itself while it is loaded":  {model: "puppet", env: `{"do": "die", "status": 7}`, why: []string{"I end myself"}},
		"48 takes all memory":                {model: "puppet", env: `{"do": "allocate"}`, why: []string{"ran out of memory while it was loaded: it may have 1500 MiB", "loadline up --memory"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endpoint := "bad-" + strings.NewReplacer(" ", "-").Replace(name)
			args := []string{"deploy", endpoint, model(c.model)}
			if c.env != "" {
				args = append(args, "--env", "AT_LOAD="+c.env)
			}
			s := shared.run(args...)
			if s.code != 1 {
				t.Errorf("exit code %d, want 1", s.code)
			}
			for _, want := range append(c.why, "  why ", "  fix ", "nothing serves yet") {
				if !strings.Contains(s.out, want) {
					t.Errorf("no word of %q", want)
				}
			}
			if c.not != "" && strings.Contains(s.out, c.not) {
				t.Errorf("it says %q", c.not)
			}
			if a := shared.get(t, endpoint, "{}"); a.status != 503 || !strings.Contains(a.body, c.why[0]) {
				t.Errorf("its requests are answered %d %s", a.status, a.body)
			}
			shared.must(t, "delete", endpoint, "--yes")
			if t.Failed() {
				t.Log(s.out)
			}
		})
	}
}

// BAD-INPUTS 48: sleeps for ever. It must be over at the start timeout, and say so.
func TestModelThatNeverLoadsIsGivenUp(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	start := time.Now()
	s := shared.run("deploy", "sleeper", model("brute"), "--command", brute, "--health", "/", "--env", `AT_LOAD={"do": "deaf", "seconds": 600}`)
	if s.code != 1 || !strings.Contains(s.out, "was not loaded after 40s") || !strings.Contains(s.out, "  fix ") {
		t.Errorf("exit code %d:\n%s", s.code, s.out)
	}
	if took := time.Since(start); took > 60*time.Second {
		t.Errorf("that took %v", took)
	}
	shared.must(t, "delete", "sleeper", "--yes")
}

// BAD-INPUTS 47: what a pickle runs when it is loaded stays in the sandbox, and
// whoever deploys it is warned.
func TestPickleThatRunsCommandsIsWarnedOfAndHeld(t *testing.T) {
	need(t)
	t.Parallel()
	shared.watch(t)
	s := shared.run("deploy", "bomb", model("bomb"))
	log := shared.must(t, "logs", "bomb", "--build")
	if !strings.Contains(log, "system") || !strings.Contains(strings.ToLower(log), "warn") {
		t.Errorf("no warning:\n%s", log)
	}
	if !strings.Contains(log, "the bomb went off") {
		t.Errorf("the bomb did not go off, so that nothing is shown:\n%s\n%s", s.out, log)
	}
	if _, err := os.Stat(bombed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was written: %v", bombed, err)
	}
	if s.code == 0 {
		if a := shared.get(t, "bomb", `{"inputs": [1, 2]}`); a.status != 200 {
			t.Errorf("it is ready, and answers %d %s", a.status, a.body)
		}
	}
	shared.must(t, "delete", "bomb", "--yes")
}
