package wire

// Preamble is the first frame on the agent's socket, written by `gatewayctl agent pipe` (or the CLI run by root) before
// it copies the session's bytes. The agent believes RoleOperator only from a peer with uid 0.
type Preamble struct {
	Role Role `json:"role"`
}
