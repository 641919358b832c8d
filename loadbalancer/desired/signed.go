package desired

// signingContext stands in front of the signed bytes, so that a signature over a State cannot be passed off as one over
// anything else that the same SSH key signs.
const signingContext = "cloud-provider-haproxy state v1\x00"

// Signed is a State as it travels and as gateways keep it: the canonical bytes and a signature over exactly these.
type Signed struct {
	// State are the canonical bytes.
	State []byte `json:"state"`
	// Signature is the SSH signature (wire format of ssh.Signature) over SigningInput.
	Signature []byte `json:"signature"`
	// Signer is the fingerprint of the signing key, as ssh-keygen -l prints it (SHA256:...).
	Signer string `json:"signer"`
}

// SigningInput is what Signature signs: "cloud-provider-haproxy state v1\x00" followed by State.
func (s Signed) SigningInput() []byte {
	input := make([]byte, 0, len(signingContext)+len(s.State))
	input = append(input, signingContext...)
	return append(input, s.State...)
}
