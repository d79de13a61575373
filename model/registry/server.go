package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

// A Server is an MLflow tracking server spoken to over REST.
type Server struct {
	base     *url.URL // without user, query, trailing slash
	loopback bool
	settings Settings
	client   *http.Client
	wait     time.Duration // before the first repetition
}

var _ model.Source = (*Server)(nil)

const (
	tries     = 3
	maxAnswer = 32 << 20 // bytes of a JSON answer; a listing of 20,000 files takes 3 MB
)

// NewServer prepares to speak to s.URI. It connects to nothing yet.
func NewServer(s Settings) (*Server, error) {
	u, err := url.Parse(s.URI)
	if err != nil || u.Host == "" {
		return nil, &serving.Error{Op: "registry", Subject: "MLFLOW_TRACKING_URI", Kind: serving.Invalid, Err: errors.New("it is not an address"),
			Fix: "Set it like http://127.0.0.1:5000."}
	}
	if u.User != nil && s.Username == "" {
		s.Username = u.User.Username()
		s.Password, _ = u.User.Password()
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	u.Path = strings.TrimRight(u.Path, "/")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 8
	transport.ResponseHeaderTimeout = time.Minute
	if transport.TLSClientConfig, err = s.tls(); err != nil {
		return nil, err
	}
	server := &Server{base: u, settings: s, wait: 200 * time.Millisecond}
	server.client = &http.Client{Transport: transport, CheckRedirect: server.stay}
	server.loopback = u.Hostname() == "localhost"
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		server.loopback = ip.IsLoopback()
	}
	return server, nil
}

func (s Settings) tls() (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: s.Insecure} // the operator's own wish
	if s.CAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("registry: MLFLOW_TRACKING_SERVER_CERT_PATH: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, &serving.Error{Op: "registry", Subject: "MLFLOW_TRACKING_SERVER_CERT_PATH", Kind: serving.Invalid, Err: errors.New("no certificate in it")}
	}
	return c, nil
}

// stay refuses a redirect to another host: it could be one that only this
// machine can reach.
func (s *Server) stay(r *http.Request, via []*http.Request) error {
	if len(via) > 5 || r.URL.Host != s.base.Host || r.URL.Scheme != s.base.Scheme {
		return &serving.Error{Op: "registry", Kind: serving.Denied, Err: errors.New("it redirects to another address, which is not followed"),
			Fix: "Set MLFLOW_TRACKING_URI to the address where the server really is."}
	}
	return nil
}

// A call is one request to the server.
type call struct {
	method string
	path   string // below the base, escaped
	query  url.Values
	body   any // sent as JSON when not nil
	header http.Header
}

// send makes one request and returns an answer of the 2xx kind.
func (s *Server) send(ctx context.Context, c call) (*http.Response, error) {
	var body io.Reader
	if c.body != nil {
		data, err := json.Marshal(c.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	target := s.base.String() + c.path
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, c.method, target, body)
	if err != nil {
		return nil, err
	}
	for k, v := range c.header {
		r.Header[k] = v
	}
	r.Header.Set("User-Agent", "loadline")
	// Bytes must arrive as they are counted.
	r.Header.Set("Accept-Encoding", "identity")
	if c.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	switch {
	case s.settings.Username != "":
		r.SetBasicAuth(s.settings.Username, s.settings.Password)
	case s.settings.Token != "":
		r.Header.Set("Authorization", "Bearer "+s.settings.Token)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, s.unreachable(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, s.complaint(resp)
}

func (s *Server) unreachable(err error) error {
	if e, ok := errors.AsType[*serving.Error](err); ok {
		return e
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the address is said once, without its query
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &serving.Error{Op: "registry", Subject: s.base.String(), Kind: serving.Unavailable, Err: err,
		Fix: "Look whether the MLflow server at MLFLOW_TRACKING_URI is running and can be reached."}
}

// complaint turns an answer that is no success into an error. Only what has
// the form of MLflow's own errors is quoted.
func (s *Server) complaint(resp *http.Response) error {
	var said struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what could not be read is not quoted
	if json.Unmarshal(data, &said) != nil || said.Code == "" {
		said.Message = ""
	}
	e := &serving.Error{Op: "registry", Kind: serving.Internal, Err: fmt.Errorf("the MLflow server answered %d", resp.StatusCode)}
	if said.Message != "" {
		e.Err = fmt.Errorf("%.300s", strings.TrimSuffix(said.Message, "."))
	}
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound || said.Code == "RESOURCE_DOES_NOT_EXIST":
		e.Kind = serving.NotFound
		if said.Code == "" {
			e.Fix = "Look whether MLFLOW_TRACKING_URI (" + s.base.String() + ") is an MLflow server."
		}
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		e.Kind = serving.Denied
		e.Fix = "Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, to an account that may read the model."
	case code == http.StatusTooManyRequests || code >= 500:
		e.Kind = serving.Unavailable
		e.Fix = "Look at the log of the MLflow server at " + s.base.String() + "."
	case code >= 400:
		e.Kind = serving.Invalid
	}
	return e
}

// ask makes a request that may be repeated and reads its JSON answer.
func (s *Server) ask(ctx context.Context, c call, answer any) error {
	wait := s.wait
	for try := 1; ; try++ {
		err := s.askOnce(ctx, c, answer)
		if err == nil || try == tries || !errors.Is(err, serving.Unavailable) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(wait):
			wait *= 3
		case <-ctx.Done():
			return err
		}
	}
}

func (s *Server) askOnce(ctx context.Context, c call, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	resp, err := s.send(ctx, c)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return s.unreachable(err)
	}
	if len(data) > maxAnswer {
		return &serving.Error{Op: "registry", Kind: serving.Invalid, Err: fmt.Errorf("the answer to %s is larger than %d bytes", c.path, maxAnswer)}
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return &serving.Error{Op: "registry", Subject: s.base.String(), Kind: serving.Unavailable, Err: errors.New("its answer is not MLflow's JSON"),
			Fix: "Look whether MLFLOW_TRACKING_URI is an MLflow server, and not a proxy's login page."}
	}
	return nil
}
