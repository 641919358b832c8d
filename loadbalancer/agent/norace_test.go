//go:build !race

package agent

// strikeEvery: see race_test.go.
const strikeEvery = 1
