package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/neighbor"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func newAgentCommand(logs *logFlags) *cobra.Command {
	command := &cobra.Command{
		Use:   "agent",
		Short: "What runs on a gateway: the agent, and the way to it",
	}
	command.AddCommand(newAgentRunCommand(logs), newAgentPipeCommand())
	return command
}

func newAgentRunCommand(logs *logFlags) *cobra.Command {
	var configFile string
	command := &cobra.Command{
		Use:   "run",
		Short: "Make the State of this gateway true, as the only writer of its configuration",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readAgentConfig(configFile)
			if err != nil {
				return err
			}
			a, err := agent.New(agent.Parts{
				Config:         config,
				Version:        version(),
				Host:           agent.Machine{},
				HAProxy:        agent.NewWorker(config.Paths.HAProxySocket, config.ServicesPort),
				TryBind:        agent.TryBind,
				Ask:            neighbor.Ask,
				Verifier:       signersFile(config.Paths.Signers),
				DialPeer:       dialPeer(config.Peers),
				Log:            logs.logger(),
				FirewallEvents: agent.FirewallEvents,
				NotifySocket:   os.Getenv("NOTIFY_SOCKET"),
			})
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	command.Flags().StringVar(&configFile, "config", agent.ConfigFile, "the agent's configuration")
	return command
}

// newAgentPipeCommand reads no file: it runs as a user who may do nothing but connect to the socket.
func newAgentPipeCommand() *cobra.Command {
	var role, socket string
	command := &cobra.Command{
		Use:   "pipe --role=controller|peer",
		Short: "Copy stdin and stdout to the agent: the forced command in authorized_keys",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if role != string(wire.RoleController) && role != string(wire.RolePeer) {
				return fmt.Errorf("--role is %q; give controller or peer", role)
			}
			return agent.Pipe(cmd.Context(), socket, wire.Role(role), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	command.Flags().StringVar(&role, "role", "", "what the key's owner may do: controller, or peer (reads the State alone)")
	command.Flags().StringVar(&socket, "socket", agent.Socket, "the agent's socket")
	return command
}

func readAgentConfig(path string) (agent.Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return agent.Config{}, fmt.Errorf("reading the agent's configuration: %w (it needs one line at least: gateway: NAME)", err)
	}
	config, err := agent.DecodeConfig(text)
	if err != nil {
		return agent.Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

// signersFile believes the keys that stand in a file of authorized_keys lines, as it is when it is asked.
type signersFile string

func (f signersFile) Verify(signed desired.Signed) error {
	keys, err := os.ReadFile(string(f))
	if err != nil {
		return fmt.Errorf("reading the keys of controllers: %w", err)
	}
	verifier, err := gateway.NewVerifier(keys)
	if err != nil {
		return fmt.Errorf("%s: %w", string(f), err)
	}
	return verifier.Verify(signed)
}
