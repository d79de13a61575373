package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func invokeCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "invoke NAME [FILE or -]",
		Short: "Ask an endpoint; without a body, with the model's own example",
		Example: `  loadline invoke iris
  loadline invoke iris rows.csv
  loadline invoke iris --data '{"dataframe_records": [{"x": 1.5}]}'`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usage("NAME is missing")
			case len(args) > 2:
				return usage("%q is one argument too many", args[2])
			case len(args) == 2 && cmd.Flags().Changed("data"):
				return usage("a file and --data are two bodies; give one")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return s.invoke(cmd, args) },
	}
	f := cmd.Flags()
	f.String("data", "", "the body, as JSON")
	_ = f.SetAnnotation("data", notSetting, []string{"it is the body, not the data folder"}) // the flag is there
	f.String("served", "", "ask this served entity, whatever the split")
	f.Bool("stream", false, "ask for an answer in pieces")
	f.String("content-type", "", "of the body; by default the file's ending says it")
	return cmd
}

func (s *shell) invoke(cmd *cobra.Command, args []string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	body, kind, err := s.body(cmd, c, args)
	if err != nil {
		return err
	}
	path := "/serving-endpoints/" + url.PathEscape(args[0])
	if served, _ := cmd.Flags().GetString("served"); served != "" {
		path += "/served-models/" + url.PathEscape(served)
	}
	header := http.Header{"Content-Type": {kind}}
	if stream, _ := cmd.Flags().GetBool("stream"); stream {
		if body, err = asStream(body); err != nil {
			return err
		}
		header.Set("Accept", "text/event-stream")
	}
	resp, err := c.open(cmd.Context(), "POST", path+"/invocations", header, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refused(resp)
	}
	if served := resp.Header.Get("Served-Model-Name"); served != "" {
		s.say("%s answered", served)
	}
	tail := &lastByte{w: s.out}
	if _, err := io.Copy(tail, resp.Body); err != nil {
		return fmt.Errorf("the answer broke off: %w", err)
	}
	if s.width() > 0 && tail.last != '\n' {
		fmt.Fprintln(s.out) // so that the prompt stands on a line of its own
	}
	return nil
}

type lastByte struct {
	w    io.Writer
	last byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.last = p[len(p)-1]
	}
	return l.w.Write(p)
}

// body finds what to send, and of which type it is.
func (s *shell) body(cmd *cobra.Command, c *client, args []string) ([]byte, string, error) {
	kind, _ := cmd.Flags().GetString("content-type")
	orElse := func(usual string) string {
		if kind != "" {
			return kind
		}
		return usual
	}
	if cmd.Flags().Changed("data") {
		data, _ := cmd.Flags().GetString("data")
		return []byte(data), orElse("application/json"), nil
	}
	if len(args) == 1 {
		served, _ := cmd.Flags().GetString("served")
		return c.example(cmd, args[0], served)
	}
	if args[1] == "-" {
		data, err := heard(cmd.Context(), func() ([]byte, error) { return io.ReadAll(s.in) })
		return data, orElse("application/json"), err
	}
	data, err := os.ReadFile(args[1])
	if err != nil {
		f := &fault{exit: exitFailed, what: "read " + args[1], why: reason(err)}
		if errors.Is(err, fs.ErrNotExist) {
			f.exit = exitNotFound
		}
		return nil, "", f
	}
	usual := "application/json"
	switch strings.ToLower(filepath.Ext(args[1])) {
	case ".csv":
		usual = "text/csv"
	case ".parquet":
		usual = "application/vnd.apache.parquet"
	}
	return data, orElse(usual), nil
}

// example asks for the body that the model brought along.
func (c *client) example(cmd *cobra.Command, name, served string) ([]byte, string, error) {
	path := at(name, "example")
	if served != "" {
		path += "?entity=" + url.QueryEscape(served)
	}
	resp, err := c.open(cmd.Context(), "GET", path, nil, nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", c.refused(resp)
	}
	data, err := io.ReadAll(resp.Body)
	return data, resp.Header.Get("Content-Type"), err
}

// asStream adds "stream": true to a JSON body.
func asStream(body []byte) ([]byte, error) {
	trimmed := bytes.TrimSpace(body)
	if !json.Valid(trimmed) || trimmed[0] != '{' {
		return nil, usage("--stream needs a body that is a JSON object")
	}
	rest := bytes.TrimSpace(trimmed[1:])
	joint := ","
	if rest[0] == '}' {
		joint = ""
	}
	return append([]byte(`{"stream": true`+joint), rest...), nil
}
