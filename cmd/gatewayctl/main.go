package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gatewayctl:", printable(err.Error()))
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "gatewayctl",
		Short:         "Highly available gateways for Services of type LoadBalancer",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	logs := newLogFlags(root)
	root.AddCommand(
		newAdoptCommand(),
		newAgentCommand(logs),
		newBootstrapCommand(),
		newBootstrapLocalCommand(),
		newDrainCommand(),
		newPoolsCommand(),
		newPushCommand(),
		newStatusCommand(),
		newUndrainCommand(),
		newVersionCommand(),
	)
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version())
			return err
		},
	}
}

// version is the module's, or the commit's when the binary was built from a checkout.
func version() string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := build.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range build.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value[:min(12, len(setting.Value))]
		}
	}
	return "devel"
}

// logFlags are the flags that every command has for its log, which goes to stderr.
type logFlags struct {
	level slog.Level
	json  bool
}

func newLogFlags(root *cobra.Command) *logFlags {
	flags := &logFlags{}
	root.PersistentFlags().TextVar(&flags.level, "log-level", slog.LevelInfo, "least level that is logged: DEBUG, INFO, WARN or ERROR")
	root.PersistentFlags().BoolVar(&flags.json, "log-json", false, "log JSON instead of text")
	return flags
}

func (f *logFlags) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: f.level}
	if f.json {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
