package provider

import (
	"testing"

	"cloud-provider-haproxy/test/manual"
)

// TestExampleOfKeptAddresses shows in README.md what we write, which is what a person may write.
func TestExampleOfKeptAddresses(t *testing.T) {
	ledger := aLedger()
	ledger.Releasing = nil // they are not for people to edit
	files, err := renderLedger(ledger)
	if err != nil {
		t.Fatal(err)
	}
	b := files[ledgerKey]
	if _, err := parseLedger([]byte(b)); err != nil {
		t.Error(err)
	}
	const command = "go test ./provider -run TestExampleOfKeptAddresses"
	manual.Hold(t, "example of kept addresses", "```yaml\n"+b+"```\n", command, *update)
}
