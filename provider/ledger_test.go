package provider

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config/strict"
)

// swapping is a clientset that counts resourceVersions of ConfigMaps and compares them, as the API server does.
func swapping(objects ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(objects...)
	versions := 100
	client.PrependReactor("create", "configmaps", func(action clienttesting.Action) (bool, runtime.Object, error) {
		versions++
		action.(clienttesting.CreateAction).GetObject().(*v1.ConfigMap).ResourceVersion = strconv.Itoa(versions)
		return false, nil, nil
	})
	client.PrependReactor("update", "configmaps", func(action clienttesting.Action) (bool, runtime.Object, error) {
		next := action.(clienttesting.UpdateAction).GetObject().(*v1.ConfigMap)
		current, err := client.Tracker().Get(action.GetResource(), next.Namespace, next.Name)
		if err != nil {
			return true, nil, err
		}
		if current.(*v1.ConfigMap).ResourceVersion != next.ResourceVersion {
			return true, nil, apierrors.NewConflict(v1.Resource("configmaps"), next.Name,
				errors.New("the object has been modified"))
		}
		versions++
		next.ResourceVersion = strconv.Itoa(versions)
		return false, nil, nil
	})
	return client
}

// storeOf is a store of a configuration that has every address in a pool.
func storeOf(client kubernetes.Interface) *ledgerStore {
	return &ledgerStore{client: client, never: func(netip.Addr) string { return "" }}
}

func ledgerObject(content string) *v1.ConfigMap {
	return &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: LedgerName, ResourceVersion: "7",
			Labels: map[string]string{"theirs": "1"}},
		Data: map[string]string{"addresses.yaml": content, "notes": "theirs too"},
	}
}

func aLedger() loadbalancer.Ledger {
	return loadbalancer.Ledger{
		Kept: []ipam.Reservation{{Address: addr("192.0.2.70"),
			Owner: ipam.Owner{Namespace: "default", Name: "web"}}},
		Quarantined: []loadbalancer.Quarantine{{Address: addr("192.0.2.71"), By: "52:54:00:12:34:56",
			Until: time.Date(2026, 11, 23, 14, 0, 0, 0, time.UTC)}},
		Given: []loadbalancer.Given{{Address: addr("192.0.2.73"), Owner: key("new")}},
		Releasing: []desired.Releasing{
			{Address: addr("192.0.2.72"), Owner: key("old"), SinceEpoch: 4, SinceSequence: 17},
			{Address: addr("2001:db8::72"), Owner: key("shared"),
				Ports: []desired.Port{{Protocol: desired.TCP, Port: 80}, {Protocol: desired.UDP,
					Port: 53}}, SinceEpoch: 4, SinceSequence: 18},
		},
	}
}

const aLedgerFile = `kept:
- address: 192.0.2.70
  service: default/web
quarantined:
- address: 192.0.2.71
  by: "52:54:00:12:34:56"
  until: "2026-11-23T14:00:00Z"
releasing:
- address: 192.0.2.72
  service: default/old
  sinceEpoch: 4
  sinceSequence: 17
- address: 2001:db8::72
  service: default/shared
  ports:
  - 80/TCP
  - 53/UDP
  sinceEpoch: 4
  sinceSequence: 18
`

const aGivenFile = `given:
- address: 192.0.2.73
  service: default/new
`

func TestLedgerIsWrittenAndReadBack(t *testing.T) {
	client := swapping()
	store := storeOf(client)
	if got, err := store.Read(t.Context()); err != nil || got != nil {
		t.Fatalf("without an object: %+v, %v; want nothing", got, err)
	}
	for range 2 { // it is made, then replaced
		if err := store.Write(t.Context(), aLedger()); err != nil {
			t.Fatal(err)
		}
	}
	object, err := client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), LedgerName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(aLedgerFile, object.Data["addresses.yaml"]); diff != "" {
		t.Errorf("what people read (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(aGivenFile, object.Data["given.yaml"]); diff != "" {
		t.Errorf("what people read of what is given (-want +got):\n%s", diff)
	}
	if manual := object.Data["README"]; !strings.Contains(manual, "Delete an entry to release its address") {
		t.Errorf("nobody is told what to do with it: %q", manual)
	}
	got, err := storeOf(client).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(aLedger(), *got, equalAddresses); diff != "" {
		t.Errorf("what is read back (-want +got):\n%s", diff)
	}
}

// A release that knows nothing of addresses that are given reads what this one has written: who goes back to it must not have to
// mend the ledger first. What it leaves in the object is read again when this one comes back, and so is what a build before wrote.
func TestLedgerOfAnotherRelease(t *testing.T) {
	client := swapping()
	store := storeOf(client)
	if _, err := store.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := store.Write(t.Context(), aLedger()); err != nil {
		t.Fatal(err)
	}
	object, err := client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), LedgerName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var earlier struct {
		Kept        []keptEntry        `yaml:"kept,omitempty"`
		Quarantined []quarantinedEntry `yaml:"quarantined,omitempty"`
		Releasing   []releasingEntry   `yaml:"releasing,omitempty"`
	}
	var faults strict.Faults
	if err := strict.Unmarshal([]byte(object.Data["addresses.yaml"]), &earlier, &faults); err != nil || faults.Err() != nil {
		t.Errorf("an earlier release cannot read it: %v, %v", err, faults.Err())
	}
	if len(earlier.Kept) != 1 || len(earlier.Quarantined) != 1 || len(earlier.Releasing) != 2 {
		t.Errorf("an earlier release reads %+v", earlier)
	}
	object.Data["README"] = "an earlier release's"
	object.Data["addresses.yaml"] = "given:\n- {address: 192.0.2.74, service: default/web}\n"
	if _, err := client.CoreV1().ConfigMaps("kube-system").Update(t.Context(), object, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := store.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := append(aLedger().Given, loadbalancer.Given{Address: addr("192.0.2.74"), Owner: key("web")})
	if diff := cmp.Diff(want, got.Given, equalAddresses); diff != "" {
		t.Errorf("what is given (-want +got):\n%s", diff)
	}
	if err := store.Write(t.Context(), *got); err != nil {
		t.Fatal(err)
	}
	object, err = client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), LedgerName, metav1.GetOptions{})
	if err != nil || !strings.Contains(object.Data["README"], "given.yaml") || strings.Contains(object.Data["addresses.yaml"], "given") {
		t.Errorf("after this release wrote it: %v, %v", object.Data, err)
	}
}

// What cannot be read of what is given stops everything, too.
func TestLedgerWithFaultyGiven(t *testing.T) {
	object := ledgerObject(aLedgerFile)
	object.Data["given.yaml"] = "given:\n- {address: 192.0.2.700, service: default/web}\n"
	_, err := storeOf(swapping(object)).Read(t.Context())
	want := `ConfigMap kube-system/cloud-provider-haproxy-addresses, given.yaml: given[0].address: line 2: "192.0.2.700"; an IP address ` +
		`(192.0.2.1 or 2001:db8::1) is allowed; mend it with kubectl -n kube-system edit configmap cloud-provider-haproxy-addresses, until ` +
		"then nothing is written there"
	if fmt.Sprint(err) != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// People write in another order, without quotes, with comments; what they add besides stays.
func TestLedgerEditedByHand(t *testing.T) {
	client := swapping(ledgerObject(`
# on holiday until Monday
quarantined:
- {address: 192.0.2.71, by: 52:54:00:12:34:56, until: 2026-11-23T15:00:00+01:00}
kept:
- service: default/web
  address: 192.0.2.75
- service: default/web
  address: 192.0.2.70
`))
	store := storeOf(client)
	got, err := store.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kept) != 2 || got.Kept[0].Address != addr("192.0.2.70") {
		t.Errorf("kept %v, want both, sorted", got.Kept)
	}
	if len(got.Quarantined) != 1 || got.Quarantined[0].By != "52:54:00:12:34:56" ||
		!got.Quarantined[0].Until.Equal(aLedger().Quarantined[0].Until) {
		t.Errorf("quarantined %+v", got.Quarantined)
	}
	if err := store.Write(t.Context(), aLedger()); err != nil {
		t.Fatal(err)
	}
	object, err := client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), LedgerName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if object.Data["notes"] != "theirs too" || object.Labels["theirs"] != "1" {
		t.Errorf("what others put there is gone: %v, %v", object.Data, object.Labels)
	}
}

func TestLedgerFaultsAreToldAndNothingIsOverwritten(t *testing.T) {
	for name, test := range ledgerFaults {
		t.Run(name, func(t *testing.T) {
			client := swapping(ledgerObject(test.content))
			store := storeOf(client)
			_, err := store.Read(t.Context())
			want := "ConfigMap kube-system/cloud-provider-haproxy-addresses, addresses.yaml: " +
				strings.Join(test.want, "; ") +
				"; mend it with kubectl -n kube-system edit configmap cloud-provider-haproxy-addresses, until then " +
				"nothing is written there"
			if diff := cmp.Diff(strings.Split(want, "; "), strings.Split(fmt.Sprint(err), "; ")); diff != "" {
				t.Errorf("what is told (-want +got):\n%s", diff)
			}
			var changed *loadbalancer.LedgerChangedError
			if err := store.Write(t.Context(), aLedger()); !errors.As(err, &changed) {
				t.Errorf("writing over it: %v, want a refusal", err)
			}
			object, err := client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), LedgerName, metav1.GetOptions{})
			if err != nil || object.Data["addresses.yaml"] != test.content {
				t.Errorf("what could not be read is overwritten: %v, %v", object.Data, err)
			}
		})
	}
}

// What is written is in whole seconds, so that what is read back is what was written, and a person can read it.
func TestLedgerTellsTimeInSeconds(t *testing.T) {
	ledger := aLedger()
	ledger.Quarantined[0].Until = ledger.Quarantined[0].Until.Add(514778723).In(time.FixedZone("CET", 3600))
	files, err := renderLedger(ledger)
	if diff := cmp.Diff(map[string]string{"addresses.yaml": aLedgerFile, "given.yaml": aGivenFile}, files); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// What is written can be read back, whatever a stranger is called.
func TestLedgerKeepsOddTexts(t *testing.T) {
	for _, by := range []string{"", "~", "null", "yes", "0x1", "1e3", "12:34:56", "52:54:00:12:34:56", "&a", "- x",
		"a: b #c", `"`, "a\nb", "2026-11-23"} {
		ledger := aLedger()
		ledger.Quarantined[0].By = by
		ledger.Given = nil
		files, err := renderLedger(ledger)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseLedger([]byte(files[ledgerKey]))
		if diff := cmp.Diff(ledger, got, equalAddresses); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s\n%s", by, err, files[ledgerKey], diff)
		}
	}
}

// Somebody else is faster, in every way there is: the loser hears of it, has to read, and then wins.
func TestLedgerIsComparedAndSwapped(t *testing.T) {
	edited := "kept:\n- {address: 192.0.2.99, service: default/edited}\n"
	for name, test := range map[string]struct {
		begin []runtime.Object
		race  func(t *testing.T, client *fake.Clientset)
	}{
		"edited": {[]runtime.Object{ledgerObject(aLedgerFile)}, func(t *testing.T, client *fake.Clientset) {
			object := ledgerObject(edited)
			if _, err := client.CoreV1().ConfigMaps("kube-system").Update(t.Context(), object,
				metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
		"created": {nil, func(t *testing.T, client *fake.Clientset) {
			if _, err := client.CoreV1().ConfigMaps("kube-system").Create(t.Context(), ledgerObject(edited),
				metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
		"key deleted": {[]runtime.Object{ledgerObject(aLedgerFile)}, func(t *testing.T, client *fake.Clientset) {
			object := ledgerObject("")
			delete(object.Data, "addresses.yaml")
			if _, err := client.CoreV1().ConfigMaps("kube-system").Update(t.Context(), object,
				metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
		"deleted": {[]runtime.Object{ledgerObject(aLedgerFile)}, func(t *testing.T, client *fake.Clientset) {
			if err := client.CoreV1().ConfigMaps("kube-system").Delete(t.Context(), LedgerName,
				metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			client := swapping(test.begin...)
			store := storeOf(client)
			if _, err := store.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
			test.race(t, client)
			for range 2 { // trying again without reading is no way
				var changed *loadbalancer.LedgerChangedError
				if err := store.Write(t.Context(), loadbalancer.Ledger{}); !errors.As(err, &changed) ||
					!strings.Contains(err.Error(), LedgerName) {
					t.Fatalf("writing over somebody else's change: %v", err)
				}
			}
			got, err := store.Read(t.Context())
			if err != nil || (got == nil) != (name == "deleted" || name == "key deleted") || got != nil &&
				(len(got.Kept) != 1 || got.Kept[0].Owner.Name != "edited") {
				t.Errorf("read %+v, %v", got, err)
			}
			if err := store.Write(t.Context(), aLedger()); err != nil {
				t.Errorf("after it was read: %v", err)
			}
		})
	}
}

// What refusals name is what kubectl finds.
func TestLedgerName(t *testing.T) {
	client := swapping(ledgerObject(aLedgerFile))
	objects, err := client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(objects.Items) != 1 {
		t.Fatal(objects, err)
	}
	found := objects.Items[0]
	if got, want := (&ledgerStore{}).Name(), "ConfigMap "+found.Namespace+"/"+found.Name; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// An error that tells nothing may hide a write.
func TestLedgerAfterATimeout(t *testing.T) {
	client := swapping(ledgerObject(aLedgerFile))
	store := storeOf(client)
	if _, err := store.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	timeouts := 0
	client.PrependReactor("update", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		if timeouts++; timeouts == 1 {
			return true, nil, apierrors.NewTimeoutError("who knows", 1)
		}
		return false, nil, nil
	})
	var changed *loadbalancer.LedgerChangedError
	if err := store.Write(t.Context(), aLedger()); err == nil || errors.As(err, &changed) {
		t.Errorf("%v, want the timeout", err)
	}
	if err := store.Write(t.Context(), aLedger()); !errors.As(err, &changed) {
		t.Errorf("%v, want that it has to be read", err)
	}
}
