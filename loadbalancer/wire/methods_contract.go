package wire

import "io"

// Contract; the room's owner replaces this file.

// WriteFrame sends v: four bytes big-endian length, then gzip of v's JSON. The length counts the compressed bytes.
func WriteFrame(w io.Writer, v any) error { panic("contract") }

// ReadFrame reads one frame into v strictly (unknown fields are errors); a frame of more than MaxFrame bytes before or
// after decompression is *TooLargeError, and nothing of that size is ever allocated. io.EOF only between frames.
func ReadFrame(r io.Reader, v any) error { panic("contract") }

// Preamble is the first frame on the agent's socket, written by `gatewayctl agent pipe` (or the CLI run by root) before
// it copies the session's bytes. The agent believes RoleOperator only from a peer with uid 0.
type Preamble struct {
	Role Role `json:"role"`
}

// Error gives Message and Remedy.
func (r *Refusal) Error() string { panic("contract") }
