package cockpit_test

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"loadline.dev/loadline/autopilot"
	"loadline.dev/loadline/autopilot/cockpit"
	"loadline.dev/loadline/control"
	"loadline.dev/loadline/platform/fake"
	"loadline.dev/loadline/serving"
)

// A gateway of paper: it follows routes as a real one does, and reports what the
// story has clients do.
type paper struct {
	mu       sync.Mutex
	route    serving.Route
	wake     func(id, entity string)
	arrivals int           // a second
	service  time.Duration // of one request, alone
	waiting  int
	deaf     bool // reports nothing: the signal is lost
	lines    []int
	line     int // that agents keep
	said     map[string]autopilot.Pulse
}

func (p *paper) Publish(r serving.Route) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.route = r
}

func (p *paper) Withdraw(string, string) { p.Publish(serving.Route{}) }

// ask has n requests come at once.
func (p *paper) ask(n int) {
	p.mu.Lock()
	r := p.route
	asleep := len(r.Entities) == 1 && len(r.Entities[0].Replicas) == 0
	if asleep {
		p.waiting += n
	}
	p.mu.Unlock()
	if asleep {
		p.wake(r.ID, r.Entities[0].Name)
	}
}

func (p *paper) Reports(list []autopilot.Report) []autopilot.Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deaf {
		return list
	}
	for _, e := range p.route.Entities {
		r := autopilot.Report{Tenant: p.route.Tenant, Endpoint: p.route.Endpoint, ID: p.route.ID, Entity: e.Name, Revision: e.Revision,
			Arrivals: p.arrivals}
		service, n := p.service, len(e.Replicas)
		p.waiting += p.arrivals
		if n > 0 {
			// A replica has ten places; whoever is let in beyond them shares these.
			carries := int(float64(n) * min(10, float64(p.line)) / p.service.Seconds())
			r.Ended = min(p.waiting, carries)
			if p.waiting -= r.Ended; p.waiting > 0 {
				service = time.Duration(float64(p.service) * max(1, float64(p.line)/10))
			}
			r.InFlight = int(math.Round(float64(r.Ended) * service.Seconds()))
		}
		if r.Waiting = p.waiting; r.Ended > 0 {
			r.Worked, r.Times = time.Duration(r.Ended)*service, new(autopilot.Sketch)
			for range r.Ended {
				r.Times.Add(service)
			}
		}
		for _, one := range e.Replicas {
			was := p.said[one.ID]
			was.Replica, was.Sequence, was.Line = one.ID, was.Sequence+1, p.line
			was.Answered += uint64(r.Ended / n)
			was.Beside += uint64(r.Ended / n * max(1, r.InFlight/n))
			was.Inside += time.Duration(r.Ended/n) * service
			p.said[one.ID] = was
			r.Replicas = append(r.Replicas, was)
		}
		list = append(list, r)
	}
	return list
}

func (p *paper) SetLine(_, _, _ string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines, p.line = append(p.lines, n), n
}

// A house is control and autopilot on a machine of paper, in virtual time.
type house struct {
	*control.Desk
	t        *testing.T
	gateway  *paper
	platform *fake.Platform
	store    *fake.Store
	drawer   *fake.Drawer
	profiles *fake.Drawer
	pilot    *cockpit.Cockpit
	dir      string
	stop     func()
}

func inHouse(t *testing.T, story func(*testing.T, *house)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, gateway: &paper{service: 50 * time.Millisecond, line: 8, said: map[string]autopilot.Pulse{}}, store: new(fake.Store), drawer: new(fake.Drawer), profiles: new(fake.Drawer), dir: dir,
			platform: &fake.Platform{StartDelay: 3 * time.Second, DrainDelay: time.Second}}
		h.start()
		defer func() {
			h.stop()
			time.Sleep(time.Minute) // what the platform still has to do
		}()
		story(t, h)
	})
}

func (h *house) start() {
	h.pilot = cockpit.New(cockpit.Parts{Gateway: h.gateway, Platform: h.platform, Drawer: h.profiles, Dir: h.dir, Processors: 8, Hardware: "paper",
		Log: slog.New(slog.DiscardHandler)})
	k := control.New(control.Parts{Store: h.store, Platform: h.platform, Preparer: &fake.Preparer{Delay: time.Second}, Router: h.gateway,
		Sizer: h.pilot, Drawer: h.drawer, Log: slog.New(slog.DiscardHandler)})
	h.pilot.Keeper = k
	h.gateway.wake = h.pilot.Woken
	h.Desk = &control.Desk{Store: h.store, Keeper: k}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { k.Run(ctx) })
	parts.Go(func() { h.pilot.Run(ctx) })
	h.stop = func() { cancel(); parts.Wait() }
}

func (h *house) deploy(s serving.Scale) {
	h.t.Helper()
	c := serving.Config{Entities: []serving.Entity{{Name: "m", Model: "models:/iris/1", Engine: "auto", Scale: s}}, Splits: []serving.Split{{Entity: "m", Percent: 100}}}
	if _, err := h.Create(h.t.Context(), serving.Endpoint{Tenant: "default", Name: "iris", Pending: &c}); err != nil {
		h.t.Fatal(err)
	}
	h.after(10 * time.Second)
}

// after lets time pass, and returns how many replicas are there then.
func (h *house) after(d time.Duration) int {
	time.Sleep(d)
	synctest.Wait()
	n := 0
	all, _ := h.platform.Replicas(h.t.Context(), "")
	for _, r := range all {
		if r.State != serving.Draining {
			n++
		}
	}
	return n
}

func (h *house) traffic(perSecond int) {
	h.gateway.mu.Lock()
	defer h.gateway.mu.Unlock()
	h.gateway.arrivals = perSecond
}

func (h *house) id() string {
	e, err := h.Get(h.t.Context(), "default", "iris")
	if err != nil {
		h.t.Fatal(err)
	}
	return e.ID
}

func TestWithoutTrafficMinReplicasStay(t *testing.T) {
	for _, low := range []int{1, 3} {
		inHouse(t, func(t *testing.T, h *house) {
			h.deploy(serving.Scale{Min: low})
			for range 60 {
				if n := h.after(10 * time.Second); n != low {
					t.Fatalf("%d replicas, want %d", n, low)
				}
			}
		})
	}
}

func TestIdleEndpointSleepsAndTheNextRequestWakesIt(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 0, Idle: 2 * time.Second})
		if n := h.after(10 * time.Second); n != 0 {
			t.Fatalf("%d replicas although nobody calls", n)
		}
		st, err := h.Status(t.Context(), "default", "iris")
		if err != nil || !st.Ready || st.Entities[0].State != serving.Deployed {
			t.Errorf("asleep it shows %+v, %v", st, err)
		}
		h.gateway.ask(1)
		if n := h.after(10 * time.Millisecond); n != 1 {
			t.Errorf("%d replicas at once after a request, want 1", n)
		}
		h.after(5 * time.Second)
		h.gateway.mu.Lock()
		if h.gateway.waiting != 0 {
			t.Error("the request still waits")
		}
		h.gateway.mu.Unlock()
		if n := h.after(time.Minute); n != 0 {
			t.Errorf("%d replicas a minute after the last request", n)
		}
		rules := h.rules()
		if rules["asleep"] == 0 || rules["woken"] == 0 {
			t.Errorf("decisions are %v", rules)
		}
	})
}

func (h *house) rules() map[string]int {
	h.t.Helper()
	all, err := h.pilot.Decisions(h.id(), "", time.Time{}, 1000)
	if err != nil {
		h.t.Fatal(err)
	}
	rules := map[string]int{}
	for _, d := range all {
		rules[d.Rule]++
	}
	return rules
}

func TestFiveThousandAtOnceStartOneReplica(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 0, Idle: time.Second})
		if n := h.after(20 * time.Second); n != 0 {
			t.Fatalf("%d replicas", n)
		}
		for range 5000 {
			h.gateway.ask(1)
		}
		for range 20 {
			if n := h.after(100 * time.Millisecond); n != 1 {
				t.Fatalf("%d replicas start, want 1", n)
			}
		}
	})
}

func TestTrafficBringsReplicasWithinMax(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 1, Max: 5})
		h.traffic(2000) // 100 at once
		if n := h.after(20 * time.Second); n != 5 {
			t.Errorf("%d replicas under load, want all 5", n)
		}
		h.traffic(0)
		if n := h.after(10 * time.Minute); n != 1 {
			t.Errorf("%d replicas long after it, want 1", n)
		}
	})
}

func TestWithoutMaxThereAreAsManyAsProcessors(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 1})
		h.traffic(10_000)
		if n := h.after(20 * time.Second); n != 8 {
			t.Errorf("%d replicas, want 8", n)
		}
	})
}

func TestLostSignalsShrinkNothing(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 0, Max: 4, Idle: time.Second})
		h.gateway.ask(1)
		h.traffic(2000)
		if n := h.after(20 * time.Second); n != 4 {
			t.Fatalf("%d replicas under load, want 4", n)
		}
		h.gateway.mu.Lock()
		h.gateway.deaf = true
		h.gateway.mu.Unlock()
		if n := h.after(10 * time.Minute); n != 4 {
			t.Errorf("%d replicas once nothing is heard, want 4", n)
		}
	})
}

func TestRestartTakesNothingAway(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 1, Max: 6})
		h.traffic(2000)
		before := h.after(5 * time.Minute)
		if before < 2 {
			t.Fatalf("%d replicas under load", before)
		}
		h.stop()
		h.start()
		for range 100 {
			if n := h.after(100 * time.Millisecond); n < before {
				t.Fatalf("%d replicas after a restart, were %d", n, before)
			}
		}
	})
}

func TestPoliciesAreObeyed(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 1, Policy: "static:3"})
		if n := h.after(10 * time.Second); n != 3 {
			t.Errorf("%d replicas, want 3", n)
		}
		if _, err := h.SetScale(t.Context(), "default", "iris", "", serving.Scale{Min: 1, Max: 2, Policy: "autopilot"}); err != nil {
			t.Fatal(err)
		}
		if n := h.after(10 * time.Minute); n != 1 {
			t.Errorf("%d replicas once it decides, want 1", n)
		}
	})
}

func TestAnUpdateGoesOnWithTheDemandOfWhatItReplaces(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 1, Max: 4})
		h.traffic(2000)
		before := h.after(5 * time.Minute)
		if before < 2 {
			t.Fatalf("%d replicas under load", before)
		}
		c := serving.Config{Entities: []serving.Entity{{Name: "m-2", Model: "models:/iris/2", Engine: "auto", Scale: serving.Scale{Min: 1, Max: 4}}}, Splits: []serving.Split{{Entity: "m-2", Percent: 100}}}
		if _, err := h.SetConfig(t.Context(), "default", "iris", c); err != nil {
			t.Fatal(err)
		}
		for range 300 {
			h.after(100 * time.Millisecond)
			h.gateway.mu.Lock()
			r := h.gateway.route
			h.gateway.mu.Unlock()
			if len(r.Entities) == 1 && len(r.Entities[0].Replicas) < before {
				t.Fatalf("the route has %d replicas of %s", len(r.Entities[0].Replicas), r.Entities[0].Name)
			}
		}
	})
}

func TestALearnedLineIsSentAndRemembered(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 1, Max: 1})
		h.traffic(220) // a little more than its ten places carry
		h.after(2 * time.Minute)
		h.gateway.mu.Lock()
		lines := h.gateway.lines
		h.gateway.lines = nil
		h.gateway.mu.Unlock()
		if len(lines) == 0 || lines[len(lines)-1] < 9 || lines[len(lines)-1] > 20 {
			t.Fatalf("lines sent are %v", lines)
		}
		h.stop()
		h.start()
		h.after(3 * time.Second)
		h.gateway.mu.Lock()
		again := h.gateway.lines
		h.gateway.mu.Unlock()
		if len(again) == 0 || again[0] < lines[len(lines)-1]*3/4 {
			t.Errorf("after a restart lines sent are %v, before it %v", again, lines)
		}
	})
}

func TestDecisionsAndTrafficAreKept(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		began := time.Now()
		h.deploy(serving.Scale{Min: 1, Max: 5})
		h.traffic(1000)
		h.after(time.Minute)
		h.traffic(0)
		h.after(time.Minute)
		before := h.rules()
		if len(before) == 0 {
			t.Fatal("no decision was kept")
		}
		seconds, err := h.pilot.Traffic(h.id(), "m", began)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, s := range seconds {
			sum += s.Arrivals
		}
		if len(seconds) < 60 || len(seconds) > 75 || sum < 60_000 {
			t.Errorf("%d seconds with %d arrivals are kept of a minute at 1,000 a second", len(seconds), sum)
		}
		h.stop()
		h.start()
		h.after(2 * time.Second)
		after, err := h.pilot.Decisions(h.id(), "m", time.Now(), 1000)
		if err != nil || len(after) == 0 {
			t.Errorf("after a restart %d decisions, %v", len(after), err)
		}
		if early, _ := h.pilot.Decisions(h.id(), "", began, 1000); len(early) != 0 {
			t.Errorf("decisions before the beginning: %v", early)
		}
	})
}

func TestNoDirectionChangesUnderConstantLoad(t *testing.T) {
	inHouse(t, func(t *testing.T, h *house) {
		h.deploy(serving.Scale{Min: 1, Max: 8})
		h.traffic(300)
		h.after(time.Minute)
		first := h.after(time.Second)
		for range 60 {
			if n := h.after(5 * time.Second); n > first {
				t.Fatalf("%d replicas, were %d", n, first)
			} else {
				first = n
			}
		}
	})
}
