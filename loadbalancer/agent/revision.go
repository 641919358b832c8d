package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// revision is one signed State, decoded. It is never changed.
type revision struct {
	signed desired.Signed
	// state is what is rendered: expanded. sent is what the controller sent, by which faults are told.
	state, sent *desired.State
	digest      string
}

// name is this State's alone: one with the same content may come again, with another fence.
func (r *revision) name() string { return fmt.Sprintf("%s, %s", r.state.Fence, r.digest) }

// decode reads a State strictly; what its fields mean is checked later. A refusal that says what is wrong with the form.
func decode(signed desired.Signed) (*revision, *wire.Refusal) {
	state, err := desired.Decode(signed.State)
	if schema := (*desired.SchemaError)(nil); errors.As(err, &schema) {
		return nil, &wire.Refusal{Code: wire.CodeVersion, Message: schema.Error(), Remedy: "run the same release of controller and agent"}
	}
	if err != nil {
		return nil, &wire.Refusal{Code: wire.CodeMalformed, Message: err.Error()}
	}
	digest, err := state.Digest()
	if err != nil {
		return nil, &wire.Refusal{Code: wire.CodeMalformed, Message: fmt.Sprintf("computing the State's digest: %v", err)}
	}
	return &revision{signed: signed, state: state.Expanded(), sent: state, digest: digest}, nil
}

// loadRevision reads the State that was committed last; nil when this gateway never had one.
func (a *Agent) loadRevision() (*revision, error) {
	path := a.config.Paths.stateFile()
	text, err := a.host.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the State that this gateway holds: %w", err)
	}
	var signed desired.Signed
	if err := json.Unmarshal(text, &signed); err != nil {
		return nil, fmt.Errorf("decoding %s: %w (remove the file to let the controller send the State anew)", path, err)
	}
	held, refusal := decode(signed)
	if refusal != nil {
		return nil, fmt.Errorf("decoding the State in %s: %w (remove the file to let the controller send the State anew)", path, refusal)
	}
	return held, nil
}

// commit makes r the State that this gateway holds. It is the last step of a transaction: before it a crash leads back
// to the old State, after it to the new one.
func (a *Agent) commit(r *revision) error {
	text, err := json.Marshal(r.signed)
	if err != nil {
		return fmt.Errorf("encoding the State: %w", err)
	}
	if err := a.host.WriteFile(a.config.Paths.stateFile(), text, 0o600); err != nil {
		return fmt.Errorf("committing the State: %w", err)
	}
	return nil
}

// acceptable is every check of a State that needs no daemon: signature, cluster, fence, meaning, limits.
func (a *Agent) acceptable(held, offered *revision) *wire.Refusal {
	if err := a.verifier.Verify(offered.signed); err != nil {
		return &wire.Refusal{Code: wire.CodeSignature, Message: fmt.Sprintf("the State's signature is not believed: %v", err),
			Remedy: "add the controller's public key to " + a.config.Paths.Signers + " on the gateway " + a.config.Gateway}
	}
	if refusal := checkFence(a.fencing(held, offered.state.Fence), offered); refusal != nil {
		return refusal
	}
	if refusal := checkMeaning(offered.sent, a.config.Gateway); refusal != nil {
		return refusal
	}
	return a.checkLimits(offered.sent)
}

func checkMeaning(s *desired.State, gateway string) *wire.Refusal {
	err := s.Validate()
	var faults desired.Faults
	if err != nil && !errors.As(err, &faults) {
		return &wire.Refusal{Code: wire.CodeInvalid, Message: err.Error()}
	}
	told := tell(faults)
	if !names(s.Gateways, gateway) {
		told = append(told, wire.Fault{Field: "gateways", Message: fmt.Sprintf("this gateway is called %q in its agent.yaml and is not listed; correct the name there, or in the controller's configuration", gateway)})
	}
	if len(told) == 0 {
		return nil
	}
	return &wire.Refusal{Code: wire.CodeInvalid, Message: "the State is invalid: " + faultList(told), Faults: told}
}

// unrenderable is a State in which a renderer finds fault although Validate does not. When it tells whose fault it is,
// so do we (DESIGN.md invariant 7).
func unrenderable(err error) *wire.Refusal {
	var faults desired.Faults
	if !errors.As(err, &faults) {
		return internal(err)
	}
	return &wire.Refusal{Code: wire.CodeInvalid, Message: err.Error(), Faults: tell(faults)}
}

func tell(faults desired.Faults) []wire.Fault {
	var told []wire.Fault
	for _, f := range faults {
		told = append(told, wire.Fault{LoadBalancer: f.Owner, Field: f.Field, Message: f.Problem})
	}
	return told
}

func names(gateways []desired.Gateway, name string) bool {
	for _, g := range gateways {
		if g.Name == name {
			return true
		}
	}
	return false
}
