package main

import (
	"context"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"

	"loadline.dev/loadline/cmd/replica"
)

// agentCommand is the role of a replica. The platform starts it, unless this
// binary carries the small one that does the same; see carry.go.
func agentCommand(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use: "agent --dir DIR", Short: "Run one replica", Hidden: true, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, _ := cmd.Flags().GetString("dir")
			if !filepath.IsAbs(dir) {
				return usage("--dir must be absolute")
			}
			o := replica.Options{Dir: dir, Log: s.err}
			o.Owner, _ = cmd.Flags().GetInt("owner")
			if addr, _ := cmd.Flags().GetString("link-listen"); addr != "" {
				o.Listen = func() (net.Listener, error) { return listenSecurely(dir, addr) }
			}
			// The shell's own handling of signals would end everything at once.
			return replica.Run(context.WithoutCancel(cmd.Context()), o)
		},
	}
	cmd.Flags().String("dir", "", "the replica's folder")
	cmd.Flags().Int("owner", 0, "process to end with")
	cmd.Flags().String("link-listen", "", "HOST:PORT to answer gateways on, over TLS, rather than on a Unix socket")
	_ = cmd.Flags().SetAnnotation("link-listen", notSetting, []string{"of this role"}) // the flag is there
	return cmd
}
