package wire

import "fmt"

// TooLargeError says that a message is over MaxFrame.
type TooLargeError struct {
	// Bytes is the message's size, or the least that it can be.
	Bytes int64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("message of at least %d bytes is over the bound of %d bytes: is the other side gatewayctl of this release?",
		e.Bytes, MaxFrame)
}

// MalformedError says that a whole frame was read which is no message: not gzip, not JSON, or not of the wanted form.
type MalformedError struct{ Err error }

func (e *MalformedError) Error() string { return e.Err.Error() }
func (e *MalformedError) Unwrap() error { return e.Err }

// VersionError says that a whole frame was read which is a message of another wire Version that this build cannot read.
type VersionError struct{ Got, Want int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("message has version %d and this build speaks version %d: run the same release of "+
		"cloud-provider-haproxy on the controller and on every gateway", e.Got, e.Want)
}

// Error gives Message and Remedy.
func (r *Refusal) Error() string {
	if r.Remedy == "" {
		return r.Message
	}
	return r.Message + ": " + r.Remedy
}
