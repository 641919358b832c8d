package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cloud-provider-haproxy/cmd/gatewayctl/bootstrap"
	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/loadbalancer/agent"
)

// newBootstrapLocalCommand is what bootstrap runs on a machine, as root. People have no use for it.
func newBootstrapLocalCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bootstrap-local",
		Short:  "Carry out a plan of bootstrap on this machine: JSON in, JSON out",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("this is for root; see `gatewayctl bootstrap --help`")
			}
			var plan prepare.Plan
			decoder := json.NewDecoder(cmd.InOrStdin())
			decoder.DisallowUnknownFields() // an operator of another version
			if err := decoder.Decode(&plan); err != nil {
				return fmt.Errorf("reading the plan: %w", err)
			}
			// sudo without secure_path has a user's.
			if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
				return err
			}
			// The operator may go away before the end. Caught, not ignored: what is run here must not inherit that.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP)
			local := localAgent{agent.Socket}
			report := prepare.Run(cmd.Context(), plan, prepare.Parts{
				Machine:  prepare.Local{Owner: prepare.RootOwner, Machine: agent.Machine{}},
				Links:    prepare.KernelLinks,
				Self:     func() ([]byte, error) { return os.ReadFile("/proc/self/exe") },
				Lock:     func() (func() error, error) { return prepare.HoldLock(prepare.LockFile, whoIsThis()) },
				TryLock:  func() error { return prepare.TryLock(prepare.LockFile) },
				Status:   local.Status,
				Patience: localPatience,
				Forget: func(ctx context.Context) (bool, error) {
					adopted, err := local.Adopt(ctx)
					return err == nil && adopted.Changed, err
				},
				Now: time.Now,
			})
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(report); err != nil {
				return errors.Join(fmt.Errorf("reporting: %w", err), removeUpload())
			}
			return nil
		},
	}
}

// whoIsThis is what another bootstrap is told of this one.
func whoIsThis() string {
	text := fmt.Sprintf("process %d, since %s", os.Getpid(), time.Now().UTC().Format("2006-01-02 15:04:05Z"))
	if user := os.Getenv("SUDO_USER"); user != "" {
		text += ", of " + user
	}
	return text
}

// removeUpload removes this program when it is the copy that bootstrap uploaded: nobody is left to do it.
func removeUpload() error {
	self, err := os.Executable()
	if err != nil || !strings.HasPrefix(filepath.Base(self), bootstrap.UploadPrefix) {
		return err
	}
	return os.Remove(self)
}
