package main

import "time"

const ms = time.Millisecond

// pairFaults are done to a pair of gateways that no controller commands.
var pairFaults = []fault{
	{
		name: "holder dies", does: "its link goes down and all its processes die; it boots two seconds later",
		strike: powerOff, lasts: 2 * time.Second, undo: boot,
		goal: within(400 * ms),
	},
	{
		name: "rebooted", does: "the same, and it boots at once",
		strike: powerOff, undo: boot,
		goal: within(400 * ms),
	},
	{
		name: "cut off", does: "its cable is pulled",
		strike: cutOff, lasts: 2 * time.Second, undo: reconnect,
		goal: within(400 * ms),
	},
	{
		name: "cut off from its peer", does: "nothing passes between the two gateways; everybody else reaches both",
		strike: part, lasts: 2 * time.Second, undo: mend,
		goal: within(400 * ms), beside: within(400 * ms),
	},
	{
		name: "keepalived killed", does: "kill -9 of all its processes; its addresses stay behind",
		strike: kill("keepalived"),
		goal:   within(400 * ms),
	},
	{
		name: "HAProxy killed", does: "kill -9 of all its processes",
		strike: kill("haproxy"),
		goal:   within(500 * ms),
	},
	{
		name: "HAProxy hangs", does: "SIGSTOP to all its processes, SIGCONT four seconds later",
		strike: sendSignal("-STOP", "haproxy"), lasts: 4 * time.Second, undo: sendSignal("-CONT", "haproxy"),
		goal: within(time.Second),
	},
	{
		name: "handed over", does: "gatewayctl drain, gatewayctl undrain",
		strike: drain, lasts: time.Second, undo: undrain, after: comeAgain,
		goal: goal{gap: 400 * ms},
	},
	{
		name: "agent killed", does: "kill -9; a supervisor starts it two seconds later",
		strike: kill("gatewayctl"), lasts: 2 * time.Second, undo: startAgent,
	},
	{
		name: "sshd gone", does: "kill -9 of sshd with all its sessions; it is started six seconds later",
		strike: kill("sshd"), lasts: 6 * time.Second, undo: startSSHD,
	},
	{
		name: "table flushed", does: "nft flush ruleset",
		strike: run("nft", "flush", "ruleset"),
		goal:   goal{gap: 200 * ms, failed: many, short: many},
	},
	{
		name: "disk full", does: "no byte can be written; a State is pushed, and again when there is room",
		strike: fillDisk, lasts: time.Second, undo: emptyDisk,
	},
	{
		name: "100 reloads", does: "a VIP comes and goes, keepalived reloads 100 times, and no processor is free",
		strike: reloadWithoutProcessor, undo: run("pkill", "-KILL", "-x", "burner"), slow: true,
	},
	{
		name: "clock jumps", does: "the agent's is set 26 hours ahead, a State is pushed, and back, and another one is",
		before: startJumpingAgent, strike: jumpClock, lasts: 3 * time.Second, undo: setClockBack,
	},
	{
		name: "power lost in a transaction", does: "a State with 100 more ports is half applied; it boots",
		strike: powerOffInTransaction, undo: boot, after: holdNewest,
		goal: within(400 * ms),
	},
	{
		name: "50 changes behind", does: "it is off during 50 changes and boots when there is no controller",
		strike: sleepThrough, undo: boot, after: holdNewest,
		goal: within(400 * ms),
	},
	{
		name: "both die", does: "both gateways lose their power and boot a second later",
		strike: powerOffBoth, lasts: time.Second, undo: bootBoth,
		goal: within(5 * time.Second), beside: within(5 * time.Second),
	},
}

// siteFaults are done to whoever commands the gateways. Nobody who is connected may notice.
var siteFaults = []fault{
	{
		name: "controller killed", does: "kill -9 in the middle of a round for 30 Services; it starts a second later",
		strike: killController, lasts: time.Second, undo: restartController,
	},
	{
		name: "two controllers", does: "the leader is stopped in the middle of a round, another one takes over, the first goes on",
		strike: secondController, undo: singleController,
	},
	{
		name: "API server down", does: "kill -9; it starts a minute later",
		strike: killAPIServer, lasts: time.Minute, undo: restartAPIServer, slow: true,
	},
}
