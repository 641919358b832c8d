package agent

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func TestFence(t *testing.T) {
	const uid, other = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
	fence := func(uid string, epoch uint64, instance string, sequence uint64) desired.Fence {
		return desired.Fence{ClusterUID: uid, Epoch: epoch, Instance: instance, Sequence: sequence}
	}
	have := fence(uid, 3, "c0ffee", 17)
	for _, test := range []struct {
		name    string
		held    *desired.Fence
		offered desired.Fence
		changed bool // the offered State differs in more than its fence
		want    wire.Code
		says    string
	}{
		{name: "first State", offered: have},
		{name: "next sequence", held: &have, offered: fence(uid, 3, "c0ffee", 18), changed: true},
		{name: "far sequence", held: &have, offered: fence(uid, 3, "c0ffee", 1000), changed: true},
		{name: "newer epoch starts over", held: &have, offered: fence(uid, 4, "facade", 1), changed: true},
		{name: "newer epoch of the same instance", held: &have, offered: fence(uid, 4, "c0ffee", 1)},
		{name: "the same once more", held: &have, offered: have},
		{name: "the same fence, another State", held: &have, offered: have, changed: true, want: wire.CodeSequence, says: "another State under the same"},
		{name: "older sequence", held: &have, offered: fence(uid, 3, "c0ffee", 16), want: wire.CodeSequence, says: "holds sequence 17"},
		{name: "older epoch", held: &have, offered: fence(uid, 2, "c0ffee", 99), want: wire.CodeEpoch, says: "another controller has taken over"},
		{name: "the same epoch of another instance", held: &have, offered: fence(uid, 3, "facade", 18), want: wire.CodeEpoch, says: `belongs to controller instance "c0ffee"`},
		{name: "another cluster", held: &have, offered: fence(other, 9, "facade", 1), want: wire.CodeCluster, says: "gatewayctl adopt"},
		{name: "no cluster after one", held: &have, offered: fence("", 0, "", 99), want: wire.CodeCluster, says: "before any cluster existed"},
		{name: "first cluster after none", held: &desired.Fence{Sequence: 7}, offered: fence(uid, 1, "c0ffee", 1)},
		{name: "no cluster, next", held: &desired.Fence{Sequence: 7}, offered: fence("", 0, "", 8), changed: true},
		{name: "no cluster, older", held: &desired.Fence{Sequence: 7}, offered: fence("", 0, "", 6), want: wire.CodeSequence, says: "sequence 7"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var held *revision
			if test.held != nil {
				held = fencedRevision(*test.held, "")
			}
			content := ""
			if test.changed {
				content = "changed"
			}
			refusal := checkFence(held, fencedRevision(test.offered, content))
			if test.want == "" {
				if refusal != nil {
					t.Fatalf("refused: %v", refusal)
				}
				return
			}
			if refusal == nil {
				t.Fatalf("accepted, want the refusal %s", test.want)
			}
			if refusal.Code != test.want || !strings.Contains(refusal.Error(), test.says) {
				t.Errorf("got %s %q, want %s with %q", refusal.Code, refusal.Error(), test.want, test.says)
			}
			if refusal.Fence == nil || *refusal.Fence != *test.held {
				t.Errorf("the refusal tells the fence %v, want %v", refusal.Fence, *test.held)
			}
			if refusal.Remedy == "" {
				t.Error("the refusal tells no remedy")
			}
		})
	}
}

func fencedRevision(f desired.Fence, content string) *revision {
	return &revision{state: &desired.State{Fence: f}, signed: desired.Signed{State: []byte(f.String() + f.Instance + content)}}
}

func TestUnreadState(t *testing.T) {
	fence := func(epoch uint64, instance string, sequence uint64) *desired.Fence {
		return &desired.Fence{ClusterUID: "uid", Epoch: epoch, Instance: instance, Sequence: sequence}
	}
	for name, test := range map[string]struct {
		held, read *desired.Fence
		refused    bool
	}{
		"nothing is held":                       {read: fence(2, "former", 5)},
		"nobody says what was read":             {held: fence(2, "former", 7)},
		"all was read":                          {held: fence(2, "former", 5), read: fence(2, "former", 5)},
		"an older one than was read elsewhere":  {held: fence(1, "old", 9), read: fence(2, "former", 5)},
		"the former leader went on":             {held: fence(2, "former", 6), read: fence(2, "former", 5), refused: true},
		"a third one led meanwhile":             {held: fence(3, "third", 1), read: fence(2, "former", 5), refused: true},
		"another one claimed the same epoch":    {held: fence(2, "twin", 3), read: fence(2, "former", 5), refused: true},
		"our own, whose answer was lost":        {held: fence(4, "ours", 1), read: fence(2, "former", 5)},
		"we had read that there was nothing":    {held: fence(1, "former", 1), read: fence(0, "", 0), refused: true},
		"made before the cluster, and not read": {held: fence(0, "", 7), read: fence(0, "", 0), refused: true},
		"one of ours was confirmed by another":  {held: fence(2, "former", 6), read: fence(4, "ours", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			offered := &revision{state: &desired.State{Fence: *fence(4, "ours", 2)}}
			var held *revision
			if test.held != nil {
				held = &revision{state: &desired.State{Fence: *test.held}}
			}
			refusal := checkRead(held, offered, test.read)
			if (refusal != nil) != test.refused || refusal != nil && (refusal.Code != wire.CodeUnread || *refusal.Fence != *test.held) {
				t.Errorf("got %v", refusal)
			}
		})
	}
}
