package wire

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// headerBytes is the length of a frame's length.
const headerBytes = 4

// WriteFrame sends v: four bytes big-endian length, then gzip of v's JSON. The length counts the compressed bytes. It
// writes once, and nothing at all when v is too large (*TooLargeError). Two WriteFrame on one writer at a time are the
// caller's to prevent.
func WriteFrame(w io.Writer, v any) error {
	plain, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(plain) > MaxFrame {
		return &TooLargeError{Bytes: int64(len(plain))}
	}
	frame := bytes.NewBuffer(make([]byte, headerBytes, headerBytes+len(plain)/4))
	// BestSpeed: a State of 5000 Services is small after it already, and a round waits for it. It knows no other error
	// than a wrong level.
	compressor, err := gzip.NewWriterLevel(frame, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("compress frame: %w", err)
	}
	if _, err := compressor.Write(plain); err != nil {
		return fmt.Errorf("compress frame: %w", err)
	}
	if err := compressor.Close(); err != nil {
		return fmt.Errorf("compress frame: %w", err)
	}
	length := frame.Len() - headerBytes
	if length > MaxFrame {
		return &TooLargeError{Bytes: int64(length)}
	}
	binary.BigEndian.PutUint32(frame.Bytes(), uint32(length))
	if _, err := w.Write(frame.Bytes()); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// ReadFrame reads one frame into v strictly: unknown fields are errors, so that who answers a request has understood all of
// it. A frame of more than MaxFrame bytes before or after decompression is *TooLargeError, and nothing of that size is ever
// allocated: memory grows with the bytes that arrived, not with those announced. io.EOF only between frames.
//
// After *MalformedError and *VersionError the frame has been read to its end: the reader may answer, and read the next.
// After any other error the connection is of no use. v may be half filled after an error.
func ReadFrame(r io.Reader, v any) error {
	plain, err := readPlain(r)
	if err != nil {
		return err
	}
	return decode(plain, v, true)
}

// ReadReply reads a Reply as ReadFrame does, and passes over fields that it does not know: the next release has more to tell,
// and while gateways are upgraded one after the other those of both releases have to hear each other.
func ReadReply(r io.Reader) (*Reply, error) {
	plain, err := readPlain(r)
	if err != nil {
		return nil, err
	}
	reply := new(Reply)
	if err := decode(plain, reply, false); err != nil {
		return nil, err
	}
	return reply, nil
}

// readPlain reads one frame and decompresses it.
func readPlain(r io.Reader) ([]byte, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("receive frame: %w", err)
	}
	length := int64(binary.BigEndian.Uint32(header[:]))
	if length > MaxFrame {
		return nil, &TooLargeError{Bytes: length}
	}
	body := &body{r: r, left: length}
	plain, err := decompress(body)
	var tooLarge *TooLargeError
	if errors.As(err, &tooLarge) {
		return nil, err
	}
	// The rest of a broken frame is thrown away, at most MaxFrame bytes, so that the next one is found.
	if _, drainErr := io.Copy(io.Discard, body); drainErr != nil {
		return nil, fmt.Errorf("receive frame: %w", drainErr)
	}
	if err != nil {
		return nil, malformed("decompress", err)
	}
	return plain, nil
}

// malformed keeps io.EOF, which means the end of the connection, out of the errors of one frame.
func malformed(step string, err error) *MalformedError {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &MalformedError{Err: fmt.Errorf("%s frame: %w", step, err)}
}

// body is the frame's compressed part. Unlike io.LimitReader it tells a connection that was cut from a frame that ended,
// and it remembers the connection's error, which gzip would report as broken data.
type body struct {
	r    io.Reader
	left int64
	err  error
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if errors.Is(err, io.EOF) {
		if b.left == 0 {
			return n, nil
		}
		err = io.ErrUnexpectedEOF
	}
	b.err = err
	return n, err
}

// decompress reads exactly one gzip member that fills the frame.
func decompress(frame *body) ([]byte, error) {
	buffered := bufio.NewReader(frame)
	decompressor, err := gzip.NewReader(buffered)
	if err != nil {
		return nil, err
	}
	decompressor.Multistream(false)
	plain, err := io.ReadAll(io.LimitReader(decompressor, MaxFrame+1))
	if err != nil {
		return nil, err
	}
	if len(plain) > MaxFrame {
		return nil, &TooLargeError{Bytes: int64(len(plain))}
	}
	if buffered.Buffered() > 0 || frame.left > 0 {
		return nil, errors.New("data after the compressed part")
	}
	return plain, nil
}

// decode reads JSON. A message of another version that this build cannot read is told as such, not as the first of its
// unknown fields; one that it can read is left to the caller (hello is answered in every version).
func decode(plain []byte, v any, strict bool) error {
	decoder := json.NewDecoder(bytes.NewReader(plain))
	if strict {
		decoder.DisallowUnknownFields()
	}
	err := decoder.Decode(v)
	if err == nil {
		if _, end := decoder.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("data after the message")
		}
	}
	if err == nil {
		return nil
	}
	var versioned struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(plain, &versioned) == nil && versioned.Version != 0 && versioned.Version != Version {
		return &VersionError{Got: versioned.Version, Want: Version}
	}
	return malformed("decode", err)
}
