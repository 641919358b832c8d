package main

import (
	"os"
	"strings"
	"testing"
)

// The Service that the demo applies is the one that the README shows.
func TestReadmeShowsTheService(t *testing.T) {
	const root = "../../"
	readme, err := os.ReadFile(root + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	service, err := os.ReadFile(root + serviceFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), string(service)) {
		t.Errorf("README.md does not show %s word for word:\n%s", serviceFile, service)
	}
}
