package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A shot is one request of a crowd and what came of it.
type shot struct {
	due    time.Duration // since the crowd began
	took   time.Duration // from when it was due to the end of its answer
	status int           // 0: no answer, or not in time, or broken
}

// A crowd sends requests at random moments of a rate, each on its own whatever
// became of the others: an open loop. Who has waited for as long as its
// patience closes its connection and is gone. Connections are kept and used
// again where nobody has left them.
type crowd struct {
	port     int
	path     string
	bodies   []string // one after another
	patience time.Duration

	mu   sync.Mutex
	idle []net.Conn
	all  []shot
}

// A phase is a time of one rate.
type phase struct {
	rate float64 // a second
	long time.Duration
}

// run plays the phases and waits for the last answer.
func (c *crowd) run(ctx context.Context, phases ...phase) []shot {
	dice := rand.New(rand.NewPCG(7, 7))
	c.all = nil
	began := time.Now()
	var flying sync.WaitGroup
	next, end, sent := time.Duration(0), time.Duration(0), 0
	for _, p := range phases {
		if p.rate == 0 {
			continue
		}
		end += p.long
		for ctx.Err() == nil {
			next += time.Duration(dice.ExpFloat64() / p.rate * 1e9)
			if next > end {
				next = end
				break
			}
			due := next
			time.Sleep(time.Until(began.Add(due)))
			body := c.bodies[sent%len(c.bodies)]
			sent++
			flying.Go(func() {
				status := c.ask(body, began.Add(due))
				took := time.Since(began) - due
				c.mu.Lock()
				c.all = append(c.all, shot{due, took, status})
				c.mu.Unlock()
			})
		}
	}
	flying.Wait()
	for _, nc := range c.idle {
		nc.Close()
	}
	c.idle = nil
	slices.SortFunc(c.all, func(a, b shot) int { return int(a.due - b.due) })
	return c.all
}

// ask sends one request. A connection that was kept and turns out to be closed
// is no failure: any client tries once more then.
func (c *crowd) ask(body string, due time.Time) int {
	until := due.Add(c.patience)
	for {
		nc, kept, err := c.connection()
		if err != nil {
			return 0
		}
		nc.SetDeadline(until)
		request := "POST " + c.path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
		_, err = io.WriteString(nc, request)
		status, keep, heard := 0, false, false
		if err == nil {
			status, keep, heard, err = readAnswer(nc)
		}
		if err == nil && keep {
			c.mu.Lock()
			c.idle = append(c.idle, nc)
			c.mu.Unlock()
			return status
		}
		nc.Close()
		var slow net.Error
		if err == nil || heard || !kept || errors.As(err, &slow) && slow.Timeout() {
			return status
		}
	}
}

func (c *crowd) connection() (nc net.Conn, kept bool, err error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		nc = c.idle[n-1]
		c.idle = c.idle[:n-1]
	}
	c.mu.Unlock()
	if nc != nil {
		return nc, true, nil
	}
	nc, err = net.DialTimeout("tcp4", "127.0.0.1:"+strconv.Itoa(c.port), c.patience)
	return nc, false, err
}

// readAnswer reads one whole answer. The status is 0 when it was not whole.
func readAnswer(nc net.Conn) (status int, keep, heard bool, err error) {
	buf, got := make([]byte, 8<<10), 0
	for {
		n, err := nc.Read(buf[got:])
		got += n
		head := bytes.Index(buf[:got], []byte("\r\n\r\n"))
		if head >= 0 && got >= 12 {
			status, _ = strconv.Atoi(string(buf[9:12]))
			fields := bytes.ToLower(buf[:head])
			keep = !bytes.Contains(fields, []byte("connection: close"))
			if i := bytes.Index(fields, []byte("\r\ncontent-length:")); i >= 0 {
				line, _, _ := bytes.Cut(fields[i+len("\r\ncontent-length:"):], []byte("\r"))
				size, _ := strconv.Atoi(string(bytes.TrimSpace(line)))
				if got-head-4 >= size {
					return status, keep, true, nil
				}
			} else if bytes.HasSuffix(buf[:got], []byte("0\r\n\r\n")) && got > head+4 {
				return status, keep, true, nil
			}
		}
		if err != nil {
			return 0, false, got > 0, err
		}
		if got == len(buf) {
			return 0, false, true, errors.New("a longer answer than any expected")
		}
	}
}

// of picks the shots that were due within a time.
func of(all []shot, from, to time.Duration) []shot {
	i, _ := slices.BinarySearchFunc(all, from, func(s shot, at time.Duration) int { return int(s.due - at) })
	j, _ := slices.BinarySearchFunc(all, to, func(s shot, at time.Duration) int { return int(s.due - at) })
	return all[i:j]
}

// within counts those answered 200 in time, and gives the p99 of all that were
// answered 200, in milliseconds.
func within(all []shot, limit time.Duration) (good int, p99 float64) {
	var took []time.Duration
	for _, s := range all {
		if s.status != 200 {
			continue
		}
		took = append(took, s.took)
		if s.took <= limit {
			good++
		}
	}
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return good, float64(took[len(took)*99/100]) / 1e6
}
