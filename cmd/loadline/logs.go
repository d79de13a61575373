package main

import (
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"
)

func logsCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Show what the engines of an endpoint wrote", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			q := url.Values{}
			for flag, key := range map[string]string{"follow": "follow", "build": "build"} {
				if on, _ := cmd.Flags().GetBool(flag); on {
					q.Set(key, "1")
				}
			}
			for flag, key := range map[string]string{"replica": "replica", "served": "entity"} {
				if v, _ := cmd.Flags().GetString(flag); v != "" {
					q.Set(key, v)
				}
			}
			resp, err := c.open(cmd.Context(), "GET", at(args[0], "logs")+"?"+q.Encode(), nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != 200 {
				return c.refused(resp)
			}
			if _, err := io.Copy(s.out, resp.Body); err != nil {
				if cmd.Context().Err() != nil {
					return cmd.Context().Err()
				}
				return fmt.Errorf("the log broke off: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolP("follow", "f", false, "go on as more is written")
	f.Bool("build", false, "of the preparation: resolve, fetch, lock, environment, prove")
	f.String("replica", "", "of this replica only")
	f.String("served", "", "of this served entity only")
	return cmd
}
