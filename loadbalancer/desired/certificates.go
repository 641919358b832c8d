package desired

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// maxCABytes bounds the certificates in a State: each gateway keeps and sends all of it.
const maxCABytes = 64 << 10

// Certificates reads the PEM of certificates and gives the one form that a State has them in: a block for each, without the
// comments and headers that such files have for people. Anything else that is not a certificate is an error; a private key
// has no business on a gateway.
func Certificates(text string) (string, error) {
	var all strings.Builder
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("holds a %s; certificates alone are allowed", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		all.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	switch n := all.Len(); {
	case strings.Contains(string(rest), "-----BEGIN"):
		return "", errors.New("ends in a block of PEM that cannot be read")
	case n == 0:
		return "", errors.New("holds no certificate in PEM (BEGIN CERTIFICATE)")
	case n > maxCABytes:
		return "", fmt.Errorf("holds certificates of %d bytes; at most %d are allowed", n, maxCABytes)
	}
	return all.String(), nil
}

func certificatesProblem(text string) string {
	canonical, err := Certificates(text)
	if err != nil {
		return err.Error()
	}
	if canonical != text {
		return "holds more than certificates in PEM; comments, headers and other line breaks are not allowed"
	}
	return ""
}
