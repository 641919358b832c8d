package main

import (
	"context"
	"time"
)

// faults are what is done to a pair of gateways that no controller commands.
var pairFaults = []fault{
	{
		name: "holder loses its power", does: "the link goes down and every process dies, later it boots",
		strike: powerOff, lasts: 2 * time.Second, undo: boot,
		goal: goal{gap: 400 * time.Millisecond, failed: many, cut: many},
	},
}

func powerOff(_ context.Context, t *trial) error { return t.struck.PowerOff() }

func boot(ctx context.Context, t *trial) error { return t.struck.Boot(ctx) }
