package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/rest"
)

func tokenCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "token", Short: "Make, list and revoke tokens",
		Args: cobra.ArbitraryArgs, RunE: onlyParts,
	}
	cmd.AddCommand(tokenCreateCommand(s), tokenListCommand(s), tokenRevokeCommand(s))
	return cmd
}

func tokenCreateCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a token; its text is shown this once", Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			body := map[string]any{"name": args[0]}
			body["scope"], _ = cmd.Flags().GetString("scope")
			if life, _ := cmd.Flags().GetDuration("life"); life > 0 {
				body["life"] = life.String()
			}
			var t rest.TokenView
			if err := c.do(cmd.Context(), "POST", api+"/tokens", body, &t); err != nil {
				return err
			}
			s.say("token %s, scope %s; it is shown only now", t.ID, t.Scope)
			return s.print(t, func(w io.Writer) { fmt.Fprintln(w, t.Token) })
		},
	}
	cmd.Flags().String("scope", "query", strings.Join(auth.Scopes, ", "))
	cmd.Flags().Duration("life", 0, "how long it is valid; 0 is for ever")
	return cmd
}

func tokenListCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens", Aliases: []string{"ls"}, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			var list struct {
				Tokens []rest.TokenView `json:"tokens"`
			}
			if err := c.do(cmd.Context(), "GET", api+"/tokens", nil, &list); err != nil {
				return err
			}
			return s.print(list.Tokens, func(w io.Writer) {
				rows := [][]string{{"ID", "NAME", "SCOPE", "CREATED", "EXPIRES"}}
				for _, t := range list.Tokens {
					expires := "never"
					if t.Expires != nil {
						expires = stamp(*t.Expires)
					}
					rows = append(rows, []string{t.ID, t.Name, t.Scope, stamp(t.Created), expires})
				}
				s.columns(w, rows)
			})
		},
	}
}

func tokenRevokeCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End a token at once", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			if err := c.do(cmd.Context(), "DELETE", api+"/tokens/"+url.PathEscape(args[0]), nil, nil); err != nil {
				return err
			}
			s.say("token %s is revoked", args[0])
			return nil
		},
	}
}
