package provider

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestEpoch(t *testing.T) {
	client := fake.NewClientset()
	store := epochStore{client, &subject{}}
	steps := []struct {
		instance string
		atLeast  uint64
		want     uint64
	}{
		{"first", 1, 1},
		{"second", 1, 2},
		{"second", 2, 3},  // claimed again
		{"third", 10, 10}, // gateways are ahead: etcd was restored
		{"fourth", 3, 11}, // gateways are behind
	}
	for _, step := range steps {
		got, err := store.Claim(t.Context(), step.atLeast, step.instance)
		if err != nil || got != step.want {
			t.Fatalf("%s claims at least %d: %d, %v; want %d", step.instance, step.atLeast, got, err, step.want)
		}
		holder, epoch, err := store.Holder(t.Context())
		if err != nil || holder != step.instance || epoch != step.want {
			t.Errorf("after %s's claim %s holds epoch %d: %v", step.instance, holder, epoch, err)
		}
	}

	if err := client.CoreV1().ConfigMaps("kube-system").Delete(t.Context(), EpochName,
		metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if holder, epoch, err := store.Holder(t.Context()); err != nil || holder != "" || epoch != 0 {
		t.Errorf("after the object was deleted %q holds %d: %v", holder, epoch, err)
	}
	if got, err := store.Claim(t.Context(), 12, "fourth"); err != nil || got != 12 {
		t.Errorf("after the object was deleted: %d, %v; want 12", got, err)
	}
}

// An object that somebody edited: nonsense is no epoch, and after the last number comes none.
func TestEditedEpoch(t *testing.T) {
	for text, want := range map[string]uint64{"": 7, "-3": 7, "many": 7, "99999999999999999999": 7, "6": 7, "7": 8, "18446744073709551615": 0} {
		store := epochStore{fake.NewClientset(&v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: EpochName},
			Data:       map[string]string{"epoch": text, "instance": "old"},
		}), &subject{}}
		got, err := store.Claim(t.Context(), 7, "we")
		if got != want || (err == nil) != (want > 0) || err != nil && !strings.Contains(err.Error(), "delete the object") {
			t.Errorf("of %q epoch %d is claimed, %v; want %d", text, got, err, want)
		}
	}
}

// TestEpochIsComparedAndSwapped lets another controller win between read and write.
func TestEpochIsComparedAndSwapped(t *testing.T) {
	client := fake.NewClientset(&v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: EpochName, ResourceVersion: "1"},
		Data:       map[string]string{"epoch": "4", "instance": "old"},
	})
	updates := 0
	client.PrependReactor("update", "configmaps", func(action clienttesting.Action) (bool, runtime.Object, error) {
		updated := action.(clienttesting.UpdateAction).GetObject().(*v1.ConfigMap)
		if updates++; updates == 1 {
			winner := updated.DeepCopy()
			winner.ResourceVersion, winner.Data = "2", map[string]string{"epoch": "5", "instance": "winner"}
			if err := client.Tracker().Update(action.GetResource(), winner, "kube-system"); err != nil {
				t.Error(err)
			}
		}
		if updates == 1 || updated.ResourceVersion != "2" {
			return true, nil, apierrors.NewConflict(v1.Resource("configmaps"), EpochName, errors.New("changed"))
		}
		return false, nil, nil
	})
	got, err := epochStore{client, &subject{}}.Claim(t.Context(), 1, "we")
	if err != nil || got != 6 {
		t.Errorf("epoch %d, %v; want 6, above the winner's", got, err)
	}
}

func TestEpochSaysWhichObjectFails(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("forbidden")
	})
	_, err := epochStore{client, &subject{}}.Claim(t.Context(), 1, "we")
	_, _, heldErr := epochStore{client, &subject{}}.Holder(t.Context())
	_, uidErr := clusterUID(client)(t.Context())
	for _, err := range []error{err, heldErr, uidErr} {
		if text := fmt.Sprint(err); !strings.Contains(text, "kube-system") || !strings.Contains(text, "forbidden") {
			t.Errorf("error %q names no object or no reason", text)
		}
	}
}
