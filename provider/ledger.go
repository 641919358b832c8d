package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
)

// LedgerName is the ConfigMap in namespace kube-system that remembers what neither Services nor gateways can tell:
// addresses that are kept for a deleted Service, quarantined, or on their way back to their pool.
const LedgerName = "cloud-provider-haproxy-addresses"

const (
	// ledgerKey and givenKey are the keys of the ConfigMap with the content (ledgerfile.go), manualKey the one with what a person
	// has to know. A release reads its own keys strictly and leaves others alone: what a later one has to add gets a key of its own,
	// as givenKey was, so that an earlier one can be gone back to.
	ledgerKey = "addresses.yaml"
	givenKey  = "given.yaml"
	manualKey = "README"

	// For people: where it is, and how to change it.
	ledgerPlace = "ConfigMap " + metav1.NamespaceSystem + "/" + LedgerName + ", "
	ledgerEdit  = "kubectl -n " + metav1.NamespaceSystem + " edit configmap " + LedgerName

	ledgerManual = `What the controller remembers of addresses. Edit it with kubectl edit; it is read again at each resync.
kept: addresses of deleted Services with the annotation cloud-provider-haproxy/keep-ip. Delete an entry to release its address.
quarantined: addresses that a machine answered for that is no gateway, until when. Delete an entry to free its address before.
releasing: addresses that a gateway which is away may still hold. The controller deletes these entries; leave them.
given (in given.yaml): addresses that Services are about to have. The controller deletes these entries; leave them.
`
)

// ledgerStore implements loadbalancer.LedgerStore. What is written replaces exactly what was read: an edit that nobody
// has read yet, or that cannot be read, is never lost.
type ledgerStore struct {
	client kubernetes.Interface
	// never says why no Service can have an address, as the pools are now; empty: one can.
	never func(netip.Addr) string
	// notice is told what a person should know of what was read.
	notice func(text string)

	mu sync.Mutex
	// idle is what notice was told last of entries that do nothing; empty: there are none.
	idle string
	// known says that current is what the API server had when we read or wrote it last; nil: no object.
	known   bool
	current *v1.ConfigMap
}

var _ loadbalancer.LedgerStore = (*ledgerStore)(nil)

// Name is what kubectl needs to find it.
func (s *ledgerStore) Name() string {
	return fmt.Sprintf("ConfigMap %s/%s", metav1.NamespaceSystem, LedgerName)
}

// Read gives what is remembered; nil when there is no object, or one without ledgerKey: nobody edited that.
func (s *ledgerStore) Read(ctx context.Context) (*loadbalancer.Ledger, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.current = false, nil
	object, err := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, LedgerName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.known = true
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading ConfigMap %s/%s: %w", metav1.NamespaceSystem, LedgerName, err)
	}
	content, isThere := object.Data[ledgerKey]
	if !isThere {
		s.known, s.current = true, object
		return nil, nil
	}
	ledger, err := parseLedger([]byte(content))
	if err != nil {
		return nil, faultyLedger(ledgerKey, err)
	}
	given, err := parseGiven([]byte(object.Data[givenKey]))
	if err != nil {
		return nil, faultyLedger(givenKey, err)
	}
	ledger.Given = append(ledger.Given, given...)
	sortLedger(&ledger)
	s.known, s.current = true, object
	s.tellIdle(ledger.Kept)
	return &ledger, nil
}

func faultyLedger(key string, err error) error {
	return fmt.Errorf("%s%s: %s; mend it with %s, until then nothing is written there", ledgerPlace, key, oneLine(err), ledgerEdit)
}

// tellIdle tells of entries that keep an address which no Service can have, once until they change: a slip of the pen,
// or a pool that is gone. It is called with mu held.
func (s *ledgerStore) tellIdle(kept []ipam.Reservation) {
	var idle []string
	for _, k := range kept {
		if reason := s.never(k.Address); reason != "" {
			idle = append(idle, fmt.Sprintf("%s for %s, which %s", k.Address, k.Owner, reason))
		}
	}
	const most = 8 // it is read by people
	if more := len(idle) - most; more > 0 {
		idle = append(idle[:most], fmt.Sprintf("and %d more", more))
	}
	text := strings.Join(idle, "; ")
	if text != "" && text != s.idle {
		klog.InfoS("Entries of the ledger keep what nobody can have", "entries", text)
		s.notice(fmt.Sprintf("%s: what is kept here is of no use, for no Service can have it: %s; delete the entries (%s), or give "+
			"the addresses to a pool", ledgerPlace+ledgerKey, text, ledgerEdit))
	}
	s.idle = text
}

// Write replaces what Read or Write gave last.
func (s *ledgerStore) Write(ctx context.Context, ledger loadbalancer.Ledger) error {
	data, err := renderLedger(ledger)
	if err != nil {
		return err
	}
	data[manualKey] = ledgerManual // also over that of an earlier release
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		return &loadbalancer.LedgerChangedError{Err: fmt.Errorf("ConfigMap %s/%s: what stands there now was not read",
			metav1.NamespaceSystem, LedgerName)}
	}
	written, err := s.replace(ctx, data)
	if err == nil {
		s.current = written
		return nil
	}
	// Also after an error that tells nothing, such as a timeout: it may have been written.
	s.known = false
	err = fmt.Errorf("writing ConfigMap %s/%s: %w", metav1.NamespaceSystem, LedgerName, err)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return &loadbalancer.LedgerChangedError{Err: err}
	}
	return err
}

// replace makes or updates the object; the resourceVersion of the current one makes it compare-and-swap.
func (s *ledgerStore) replace(ctx context.Context, data map[string]string) (*v1.ConfigMap, error) {
	objects := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	if s.current == nil {
		return objects.Create(ctx, &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: LedgerName},
			Data:       data,
		}, metav1.CreateOptions{})
	}
	next := s.current.DeepCopy() // what others put there, such as labels, stays
	if next.ResourceVersion == "" {
		return nil, errors.New("it has no resourceVersion to compare")
	}
	if next.Data == nil {
		next.Data = map[string]string{}
	}
	maps.Copy(next.Data, data)
	return objects.Update(ctx, next, metav1.UpdateOptions{})
}
