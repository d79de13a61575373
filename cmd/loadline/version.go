package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is the version that this tree becomes.
const release = "0.1.0-dev"

func version() string { return release }

func versionCommand(s *shell) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": version(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, setting := range info.Settings {
					if setting.Key == "vcs.revision" {
						v["commit"] = setting.Value
					}
				}
			}
			return s.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "loadline %s (%s, %s/%s)\n", v["version"], v["go"], v["os"], v["arch"])
			})
		},
	}
}
