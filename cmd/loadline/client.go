package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"loadline.dev/loadline/auth"
)

const api = "/api/loadline/v1"

// A client talks to a running server.
type client struct {
	host  string
	token string
	https http.RoundTripper // nil is Go's own
}

func (s *shell) client() (*client, error) {
	host := s.settings.text("host")
	if host == "" {
		host = defaultHost
	}
	if !strings.Contains(host, "://") {
		host = "http://" + host
	}
	u, err := url.Parse(host)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usage("host %q is not an address like %s", host, defaultHost)
	}
	c := &client{host: strings.TrimRight(host, "/"), token: s.settings.text("token")}
	if c.https, err = s.trusting(); err != nil {
		return nil, err
	}
	// The owner's token is shown to this machine only: a settings file in some
	// folder must not be able to send it elsewhere.
	if c.token == "" && auth.Loopback(u.Hostname()) {
		if dir, err := s.data(); err == nil {
			text, _ := os.ReadFile(filepath.Join(dir, "token")) // absent: the server will say so
			c.token = strings.TrimSpace(string(text))
		}
	}
	return c, nil
}

// local says whether the server is on this machine.
func (c *client) local() bool {
	u, err := url.Parse(c.host)
	return err == nil && auth.Loopback(u.Hostname())
}

// open sends a request and returns the answer, whatever its status.
func (c *client) open(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.host+path, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	req.Header.Set("User-Agent", "loadline/"+version())
	resp, err := (&http.Client{Transport: c.https}).Do(req)
	if err == nil {
		return resp, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return nil, &fault{exit: exitFailed, what: "no server at " + c.host, why: op.Err.Error(), fix: "loadline up"}
	}
	return nil, &fault{exit: exitFailed, what: "talk to " + c.host, why: err.Error(), fix: cmp.Or(mistrusted(err), "loadline doctor")}
}

// do sends JSON and reads JSON.
func (c *client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	header := http.Header{}
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
		header.Set("Content-Type", "application/json")
	}
	resp, err := c.open(ctx, method, path, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		f := c.refused(resp)
		if resp.StatusCode == http.StatusBadRequest {
			f.exit = exitUsage // what was typed cannot be
		}
		return f
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return &fault{exit: exitFailed, what: "read the answer of " + c.host, why: err.Error(), fix: "check that a loadline server listens there"}
	}
	return nil
}

// refused turns an answer that is not a success into a fault.
func (c *client) refused(resp *http.Response) *fault {
	const most = 64 << 10
	data, _ := io.ReadAll(io.LimitReader(resp.Body, most)) // what came must do
	var said struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
		Fix     string `json:"fix"`
	}
	_ = json.Unmarshal(data, &said) // not ours, if it does not parse
	f := &fault{exit: exitOf(resp.StatusCode), what: said.Message, fix: said.Fix}
	if f.what == "" {
		f.what = fmt.Sprintf("%s answered %s", c.host, resp.Status)
		f.why = strings.TrimSpace(string(data))
	}
	if resp.StatusCode == http.StatusUnauthorized && f.fix == "" {
		f.fix = "set LOADLINE_TOKEN, or LOADLINE_DATA to the server's data folder"
	}
	return f
}

func exitOf(status int) int {
	switch status {
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitDenied
	case http.StatusConflict:
		return exitConflict
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return exitTimedOut
	}
	return exitFailed
}

// at is the API path of an endpoint.
func at(name string, more ...string) string {
	path := api + "/endpoints/" + url.PathEscape(name)
	for _, m := range more {
		path += "/" + m
	}
	return path
}
