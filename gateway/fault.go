package gateway

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"sync"
	"time"

	"loadline.dev/loadline/gateway/http1"
	"loadline.dev/loadline/serving"
)

// A fault is an answer of the gateway's own: what a client hears when no engine
// answered. The codes are those of CONTRACT 1, so that its SDKs know them.
type fault struct {
	status int
	code   string
	why    string
	retry  int    // seconds until trying again may help; zero is not said
	allow  string // methods, with 405
}

func (f *fault) Error() string { return f.why }

// downError is what those hear who ask an entity that will not come up.
func downError(why string) error {
	return &fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", why: why, retry: 10}
}

func notFound(what string) *fault {
	return &fault{status: 404, code: "RESOURCE_DOES_NOT_EXIST", why: what}
}

func tooLarge(limit int64) *fault {
	return &fault{status: 413, code: "REQUEST_TOO_LARGE", why: "the request body is larger than " + strconv.FormatInt(limit, 10) + " bytes"}
}

func badGateway(why string) *fault {
	return &fault{status: 502, code: "INTERNAL_ERROR", why: why}
}

// errDeadline is answered as MLflow's server does it, in plain text.
var errDeadline = &fault{status: 504, why: "Request processing time exceeded limit"}

// crowded is what those hear for whom the gateway has no room beside the
// requests that it has.
func (e *entity) crowded(with string) *fault {
	return &fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", retry: 1,
		why: "the " + with + " of endpoint " + e.endpoint + " fill their share of the gateway"}
}

// refused turns what a gate said into an answer.
func (e *entity) refused(err error) *fault {
	var f *fault
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, serving.TimedOut):
		return errDeadline
	case errors.Is(err, serving.Busy) && (e.coming.Load() || len(*e.replicas.Load()) == 0):
		return &fault{status: 503, code: "TEMPORARILY_UNAVAILABLE", retry: e.retryAfter(),
			why: "as many requests wait for " + e.name + " as may; more capacity is on its way"}
	case errors.Is(err, serving.Busy):
		return &fault{status: 429, code: "RESOURCE_EXHAUSTED", retry: e.retryAfter(),
			why: "more requests come for " + e.name + " than it can answer in time, and it is at its maximum"}
	}
	return nil
}

// retryAfter is when about as many will have been served as wait now, in seconds.
func (e *entity) retryAfter() int {
	if wait := e.gate.Expect(); wait > 0 {
		return int(math.Ceil(min(60, wait.Seconds())))
	}
	perSecond := 0.0
	for _, r := range *e.replicas.Load() {
		if service := time.Duration(r.service.Load()); service > 0 {
			perSecond += float64(max(1, r.line.Load())) / service.Seconds()
		}
	}
	if mean, _ := e.took.read(); perSecond == 0 && mean > 0 {
		perSecond = 1 / mean.Seconds()
	}
	if perSecond == 0 {
		return 5
	}
	return int(math.Ceil(min(60, max(1, float64(e.gate.Waiting())/perSecond))))
}

// say answers with f.
func (c *conn) say(f *fault) {
	if c.answer.started {
		c.answer.closing = true // too late to say anything
		return
	}
	c.answer.closing = c.answer.closing || f.status == 413
	c.skipArrived()
	body, kind := []byte(f.why), "text/plain; charset=utf-8"
	if f.code != "" {
		body, _ = json.Marshal(struct {
			Code    string `json:"error_code"`
			Message string `json:"message"`
		}{f.code, f.why})
		kind = "application/json"
	}
	c.sayBody(f, kind, body)
}

func (c *conn) sayBody(f *fault, kind string, body []byte) {
	c.startHead(f.status)
	c.addField("Content-Type", kind)
	if f.retry > 0 {
		c.addField("Retry-After", strconv.Itoa(f.retry))
	}
	if f.allow != "" {
		c.addField("Allow", f.allow)
	}
	if f.status == 401 {
		c.addField("WWW-Authenticate", "Bearer")
	}
	c.endHead(int64(len(body)))
	_ = c.writeBody(body)
	_ = c.finish()
	if f.status >= 500 || f.status == 400 || f.status == 408 {
		c.g.logAnswer(c, f)
	}
}

// refuse answers what is not a request, and ends the connection.
func (c *conn) refuse(r *http1.Refusal) {
	c.idle.Store(false)
	c.readUntil.Store(0)
	c.g.metrics.refused(r.Status)
	if http1.IsTLS(r) {
		c.out = append(c.out, "this port speaks plain HTTP, not TLS\n"...)
		c.flush()
		return
	}
	c.answer.begin()
	c.answer.closing = true
	c.head.Method, c.head.Minor = "", 1
	c.body = body{left: 1} // whatever follows is not read
	c.head.Fields = c.head.Fields[:0]
	c.chooseID()
	c.say(refusalFault(r))
	c.linger()
}

func refusalFault(r *http1.Refusal) *fault {
	f := &fault{status: r.Status, code: "BAD_REQUEST", why: r.Why}
	switch r.Status {
	case 405:
		f.code, f.allow = "METHOD_NOT_ALLOWED", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
	case 408:
		f.code = "REQUEST_TIMEOUT"
	case 501:
		f.code = "NOT_IMPLEMENTED"
	}
	return f
}

// A logLimit lets ten lines a second through: a flood of broken requests must
// not become a flood of log lines.
type logLimit struct {
	mu       sync.Mutex
	second   int64
	lines    int
	withheld int
}

func (l *logLimit) allow(now time.Time) (withheld int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second {
		l.second, l.lines = s, 0
		withheld, l.withheld = l.withheld, 0
	}
	if l.lines++; l.lines > 10 {
		l.withheld++
		return 0, false
	}
	return withheld, true
}

func (g *Gateway) logAnswer(c *conn, f *fault) {
	withheld, ok := g.lines.allow(time.Now())
	if !ok {
		return
	}
	args := []any{"status", f.status, "request", string(c.id[:c.idLen]), "client", c.remote, "why", f.why}
	if c.answer.entity != "" {
		args = append(args, "entity", c.answer.entity)
	}
	if withheld > 0 {
		args = append(args, "withheld", withheld)
	}
	g.Log.Info("request refused", args...)
}
