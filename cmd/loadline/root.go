package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// A shell is what a command has to talk with.
type shell struct {
	in       io.Reader
	out, err io.Writer // data, talk
	settings settings
	format   string // table, json, yaml
	takeover bool   // up
}

// run is the whole program; it returns the exit code.
func run(args []string) int {
	ctx, stop := interruptible()
	defer stop()
	s := &shell{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	root := rootCommand(s)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return s.conclude(ctx, cmd, err)
}

func rootCommand(s *shell) *cobra.Command {
	root := &cobra.Command{
		Use:   "loadline",
		Short: "Serve any MLflow model, adapted to the model and its traffic",
		Long: `Serve any MLflow model.

  loadline serve ./model            one model, in the foreground
  loadline up                       the whole product on this machine
  loadline deploy iris models:/iris@champion
  loadline invoke iris              asks with the model's own example

MODEL is models:/name/3, models:/name@alias, models:/m-<id>, runs:/id/path, mlflow-artifacts:/…, s3://…,
gs://…, abfss://… or a folder. MLFLOW_TRACKING_URI says where names resolve.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 conflict, 6 timed out, 130 Ctrl-C.`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs, RunE: onlyParts,
		Version:           version(),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return s.prepare(cmd) },
	}
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage("%v", err) })
	flags := root.PersistentFlags()
	flags.String("host", "", "server to talk to (LOADLINE_HOST; default "+defaultHost+")")
	flags.String("ca", "", "PEM file of who may vouch for an https server (LOADLINE_CA; default: whom this machine trusts)")
	flags.String("token", "", "token to show it (LOADLINE_TOKEN; the owner's is found by itself)")
	flags.String("data", "", "data folder (LOADLINE_DATA; default $XDG_DATA_HOME/loadline)")
	flags.StringP("output", "o", "", "table, json or yaml")
	root.SetVersionTemplate("loadline {{.Version}}\n")
	root.SetHelpCommand(helpCommand(root))
	root.AddCommand(serveCommand(s), upCommand(s), deployCommand(s), invokeCommand(s), lsCommand(s), getCommand(s),
		describeCommand(s), waitCommand(s), rollbackCommand(s), trafficCommand(s), scaleCommand(s), deleteCommand(s),
		logsCommand(s), eventsCommand(s), explainCommand(s), whatifCommand(s), tokenCommand(s), doctorCommand(s), versionCommand(s),
		agentCommand(s), gatewayCommand(s), prepareCommand(s), simulateCommand(s))
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.Args, completion.RunE = cobra.ArbitraryArgs, onlyParts
	}
	return root
}

// onlyParts is what a command does that only has others below it.
func onlyParts(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("no command %q%s", args[0], didYouMean(cmd, args[0]))
	}
	return cmd.Help()
}

// helpCommand differs from cobra's in that help about nothing is a mistake.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usage("no command %q%s", args[len(args)-1], didYouMean(root, args[len(args)-1]))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

func didYouMean(cmd *cobra.Command, word string) string {
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		return "; did you mean " + near[0] + "?"
	}
	return "; see loadline help"
}

// prepare reads the settings before any command runs.
func (s *shell) prepare(cmd *cobra.Command) error {
	var err error
	if s.settings, err = readSettings(cmd.Flags(), os.Getenv); err != nil {
		return err
	}
	s.format = s.settings.text("output")
	switch s.format {
	case "", "table", "json", "yaml":
		return nil
	}
	return usage("output %q is not known; known are table, json, yaml", s.format)
}

// data is the data folder, as an absolute path.
func (s *shell) data() (string, error) {
	if dir := s.settings.text("data"); dir != "" {
		return filepath.Abs(dir)
	}
	if base := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "loadline"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil || home == "" || home == "/" {
		return "", usage("HOME is not set, so there is no data folder; set LOADLINE_DATA or --data")
	}
	return filepath.Join(home, ".local", "share", "loadline"), nil
}

// exactly is cobra's check of the number of arguments, in our words.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usage("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return usage("%q is one argument too many", args[len(names)])
		}
		return nil
	}
}
