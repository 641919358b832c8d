package desired

// The methods below are the contract that other rooms are written against; the room's owner replaces this file.

// String gives namespace/name, as HAProxy's map and every message show it.
func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Compare orders by namespace, then name.
func (k Key) Compare(other Key) int { panic("contract") }

// Compare orders two fences of one cluster by epoch, then sequence.
func (f Fence) Compare(other Fence) int { panic("contract") }

// String gives "epoch 3, sequence 17".
func (f Fence) String() string { panic("contract") }

// Clone is a deep copy.
func (s *State) Clone() *State { panic("contract") }

// Normalize sorts every list into canonical order, in place.
func (s *State) Normalize() { panic("contract") }

// Validate returns every fault of the State, each with the path of the field; nil when there is none. See Faults.
func (s *State) Validate() error { panic("contract") }

// Canonical gives the bytes that are signed, sent, stored and compared: JSON of the normalized State without a
// trailing newline. Two equal States give equal bytes.
func (s *State) Canonical() ([]byte, error) { panic("contract") }

// Digest is the lower-case hex SHA-256 of the State's canonical bytes with an empty Fence: equal digests mean that
// nothing changed but the fence.
func (s *State) Digest() (string, error) { panic("contract") }

// Decode reads canonical bytes strictly: an unknown field, a trailing byte or another schema is an error
// (*SchemaError for the latter). It does not Validate.
func Decode(b []byte) (*State, error) { panic("contract") }

// Instances gives one Instance for each ordered pair (holder, first heir) of the gateways, one for a single gateway,
// with router IDs from first upward. Further heirs follow in the order of names. Error when 255 is passed.
func Instances(gateways []Gateway, first int) ([]Instance, error) { panic("contract") }

// Fault is one thing wrong with a State. Owner is set when one load balancer alone is at fault.
type Fault struct {
	Owner   *Key
	Field   string // e.g. loadBalancers[default/web].frontends[0].nodePort
	Problem string // what is wrong and what is allowed
}

// Faults is the error of Validate.
type Faults []Fault

func (f Faults) Error() string { panic("contract") }

// SchemaError says that a State was written by a build with another Schema.
type SchemaError struct{ Got, Want int }

func (e *SchemaError) Error() string { panic("contract") }

// Signed is a State as it travels and as gateways keep it: the canonical bytes and a signature over exactly these.
type Signed struct {
	// State are the canonical bytes.
	State []byte `json:"state"`
	// Signature is the SSH signature (wire format of ssh.Signature) over "cloud-provider-haproxy state v1\x00" + State.
	Signature []byte `json:"signature"`
	// Signer is the fingerprint of the signing key, as ssh-keygen -l prints it (SHA256:...).
	Signer string `json:"signer"`
}

// SigningInput is what Signature signs.
func (s Signed) SigningInput() []byte { panic("contract") }
