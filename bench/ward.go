package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"loadline.dev/loadline/link"
)

// A wardPlan says how a ward's replicas behave.
type wardPlan struct {
	factors []float64     // of each replica: × the work of a request is what it takes
	mean    time.Duration // of the work
	even    bool          // the work lies evenly between a half and one and a half of the mean; else it is exponential
	places  int           // requests that one replica works on at once
	pause   time.Duration // for which a replica stands still now and then; zero is never
	every   time.Duration // between two pauses of one replica, on average
}

// capacity is how many requests a second the ward can answer.
func (p wardPlan) capacity() float64 {
	sum := 0.0
	for _, f := range p.factors {
		sum += float64(p.places) / (f * p.mean.Seconds())
	}
	if p.pause > 0 {
		sum *= float64(p.every) / float64(p.every+p.pause)
	}
	return sum
}

func (p wardPlan) args() []string {
	var factors []string
	for _, f := range p.factors {
		factors = append(factors, fmt.Sprint(f))
	}
	return []string{"-factors", strings.Join(factors, ","), "-mean", p.mean.String(), "-places", strconv.Itoa(p.places),
		"-pause", p.pause.String(), "-every", p.every.String(), "-even=" + strconv.FormatBool(p.even)}
}

func (p *wardPlan) flags(f *flag.FlagSet) {
	f.Func("factors", "of the replicas", func(s string) error {
		for _, text := range strings.Split(s, ",") {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return err
			}
			p.factors = append(p.factors, v)
		}
		return nil
	})
	f.DurationVar(&p.mean, "mean", 10*time.Millisecond, "work of a request")
	f.BoolVar(&p.even, "even", false, "work is not exponential")
	f.IntVar(&p.places, "places", 1, "of a replica")
	f.DurationVar(&p.pause, "pause", 0, "of a replica")
	f.DurationVar(&p.every, "every", 10*time.Second, "between pauses")
}

// A bed is one replica: it sleeps in place of work, so that a machine of two
// processors can have ten of them.
type bed struct {
	plan   wardPlan
	factor float64
	places chan struct{}

	mu    sync.Mutex
	dice  *rand.Rand
	until time.Time // the end of a pause
	next  time.Time // pause
}

func newBed(p wardPlan, i int) *bed {
	b := &bed{plan: p, factor: p.factors[i], places: make(chan struct{}, p.places), dice: rand.New(rand.NewPCG(uint64(i), 1))}
	b.next = time.Now().Add(time.Duration(b.dice.Float64() * float64(p.every)))
	return b
}

// work takes as long as one request does.
func (b *bed) work() {
	b.places <- struct{}{}
	defer func() { <-b.places }()
	b.mu.Lock()
	work := b.dice.ExpFloat64()
	if b.plan.even {
		work = .5 + b.dice.Float64()
	}
	took := time.Duration(work * b.factor * float64(b.plan.mean))
	b.mu.Unlock()
	b.sleep(took)
}

// sleep sleeps for d, and longer when a pause comes in between.
func (b *bed) sleep(d time.Duration) {
	end := time.Now().Add(d)
	if b.plan.pause == 0 {
		time.Sleep(d)
		return
	}
	b.mu.Lock()
	for now := time.Now(); !b.next.After(now); {
		b.until = b.next.Add(b.plan.pause)
		b.next = b.until.Add(time.Duration((.5 + b.dice.Float64()) * float64(b.plan.every)))
	}
	if b.until.After(time.Now()) {
		end = b.until.Add(d)
	} else if b.next.Before(end) {
		end = end.Add(b.plan.pause)
	}
	b.mu.Unlock()
	time.Sleep(time.Until(end))
}

func (b *bed) paused() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until.After(time.Now())
}

// ward runs replicas, each on a Unix socket for a gateway and on a port for the
// rivals. What a request asks for in its body is done: "stream" answers five
// events, "hang" never answers, "garbage" answers what is none.
func ward(args []string) error {
	var p wardPlan
	f := flag.NewFlagSet("ward", flag.ExitOnError)
	p.flags(f)
	dir := f.String("dir", "", "of the sockets")
	ports := f.String("ports", "", "of the replicas; comma between")
	_ = f.Parse(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	over := make(chan error, 2*len(p.factors))
	for i := range p.factors {
		b := newBed(p, i)
		l, err := net.Listen("unix", socketOf(*dir, i))
		if err != nil {
			return err
		}
		s := link.NewServer(b.handle, nil)
		s.SetLine(p.places)
		context.AfterFunc(ctx, func() { s.Close() })
		go func() { over <- s.Serve(l) }()
		if *ports == "" {
			continue
		}
		tcp, err := net.Listen("tcp4", "127.0.0.1:"+strings.Split(*ports, ",")[i])
		if err != nil {
			return err
		}
		h := &fasthttp.Server{Handler: b.answer, StreamRequestBody: false}
		context.AfterFunc(ctx, func() { tcp.Close() })
		go func() { over <- h.Serve(tcp) }()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-over:
		return err
	}
}

func socketOf(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("r%d.sock", i)) }

var jsonHead = []link.Field{{Name: "Content-Type", Value: "application/json"}}

// handle is the replica as a gateway knows it.
func (b *bed) handle(ctx context.Context, in *link.Incoming) {
	body, err := io.ReadAll(in)
	if err != nil {
		in.Fail(err.Error())
		return
	}
	switch {
	case strings.Contains(string(body), "hang"):
		<-ctx.Done()
		return
	case strings.Contains(string(body), "garbage"):
		_ = in.Reply(&link.Answer{Status: 200, Size: 5, Header: []link.Field{{Name: "a b", Value: "\r\n"}}})
		return
	case strings.Contains(string(body), "stream"):
		_ = in.Reply(&link.Answer{Status: 200, Size: -1, Header: []link.Field{{Name: "Content-Type", Value: "text/event-stream"}}})
		for range events {
			b.sleep(b.plan.mean)
			if _, err := in.Write([]byte(event)); err != nil {
				return
			}
			_ = in.Flush()
		}
		return
	}
	b.work()
	_ = in.Reply(&link.Answer{Status: 200, Size: int64(len(answer)), Header: jsonHead})
	_, _ = in.Write([]byte(answer))
}

const (
	events = 5
	event  = "data: {\"choices\": [{\"delta\": {\"content\": \"word\"}}]}\n\n"
)

// answer is the replica as a rival knows it.
func (b *bed) answer(c *fasthttp.RequestCtx) {
	if strings.Contains(string(c.PostBody()), "stream") {
		c.SetContentType("text/event-stream")
		c.SetBodyStreamWriter(func(w *bufio.Writer) {
			for range events {
				b.sleep(b.plan.mean)
				_, _ = w.WriteString(event)
				if w.Flush() != nil {
					return
				}
			}
		})
		return
	}
	b.work()
	c.SetContentType("application/json")
	c.SetBodyString(answer)
}

// oracle is one queue that knows how quick every replica is and which of them
// stands still, with nothing between it and them: the limit of what choosing
// can reach. A slow replica gets a request only where waiting for a quicker one
// would take longer.
func oracle(args []string) error {
	var p wardPlan
	f := flag.NewFlagSet("oracle", flag.ExitOnError)
	p.flags(f)
	port := f.Int("port", 0, "to listen on")
	_ = f.Parse(args)
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		return err
	}
	o := &seer{plan: p, free: make([]int, len(p.factors))}
	for i := range p.factors {
		o.beds = append(o.beds, newBed(p, i))
		o.free[i] = p.places
	}
	if p.pause > 0 {
		go func() {
			for range time.Tick(time.Millisecond) { // a pause that ends is no event of its own
				o.mu.Lock()
				o.dispatchLocked()
				o.mu.Unlock()
			}
		}()
	}
	return (&fasthttp.Server{Handler: func(c *fasthttp.RequestCtx) {
		i := o.enter()
		o.beds[i].work()
		o.leave(i)
		c.SetContentType("application/json")
		c.SetBodyString(answer)
	}}).Serve(l)
}

type seer struct {
	plan wardPlan
	beds []*bed

	mu      sync.Mutex
	free    []int
	waiting []chan int
}

func (o *seer) enter() int {
	turn := make(chan int, 1)
	o.mu.Lock()
	o.waiting = append(o.waiting, turn)
	o.dispatchLocked()
	o.mu.Unlock()
	return <-turn
}

func (o *seer) leave(i int) {
	o.mu.Lock()
	o.free[i]++
	o.dispatchLocked()
	o.mu.Unlock()
}

// dispatchLocked requires o.mu.
func (o *seer) dispatchLocked() {
	for len(o.waiting) > 0 {
		i := o.bestLocked()
		if i < 0 {
			return
		}
		o.free[i]--
		o.waiting[0] <- i
		o.waiting = o.waiting[1:]
	}
}

func (o *seer) bestLocked() int {
	best := -1
	for i, f := range o.plan.factors {
		if o.free[i] > 0 && (best < 0 || f < o.plan.factors[best]) && !(o.plan.pause > 0 && o.beds[i].paused()) {
			best = i
		}
	}
	if best < 0 {
		return -1
	}
	quickest, rate := o.plan.factors[best], 0.0
	for _, f := range o.plan.factors {
		if f < o.plan.factors[best] {
			quickest = min(quickest, f)
			rate += float64(o.plan.places) / f
		}
	}
	if rate > 0 && float64(len(o.waiting))/rate+quickest < o.plan.factors[best] {
		return -1
	}
	return best
}
