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

// CheckCertificates judges the PEM of certificates: every block is one that can be read, there is at least one, and there
// is nothing else. A private key does not belong there, and a daemon would pass over what it does not understand.
func CheckCertificates(text string) error {
	if problem := certificatesProblem(text); problem != "" {
		return errors.New(problem)
	}
	return nil
}

func certificatesProblem(text string) string {
	if len(text) > maxCABytes {
		return fmt.Sprintf("has %d bytes; at most %d are allowed", len(text), maxCABytes)
	}
	rest, count := []byte(text), 0
	for strings.TrimSpace(string(rest)) != "" {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return "is not PEM; certificates (BEGIN CERTIFICATE) are allowed"
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Sprintf("holds a %s; certificates alone are allowed", block.Type)
		}
		count++
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Sprintf("certificate %d cannot be read: %v", count, err)
		}
	}
	if count == 0 {
		return "holds no certificate"
	}
	return ""
}
