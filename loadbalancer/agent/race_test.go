//go:build race

package agent

// strikeEvery is how many operations the fault tests pass over for each that they strike. Under the race detector, which looks for something
// else, a run of all takes ten times as long; `make unit` strikes them all without it.
const strikeEvery = 7
