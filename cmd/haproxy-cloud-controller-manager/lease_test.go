package main

import (
	"errors"
	"os"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func lease(holder string) *coordination.Lease {
	duration, renewed := int32(15), metav1.NewMicroTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	return &coordination.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: programName},
		Spec:       coordination.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &duration, RenewTime: &renewed},
	}
}

func TestRelease(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, holder, want string }{
		{"ours", host + "_1b4e28ba", ""},
		{"another's", host + "2_1b4e28ba", host + "2_1b4e28ba"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := fake.NewClientset(lease(test.holder))
			renewals := 0 // the elector renews it while we release it
			client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
				if renewals++; renewals == 1 {
					return true, nil, apierrors.NewConflict(coordination.Resource("leases"), programName, errors.New("renewed"))
				}
				return false, nil, nil
			})
			if err := release(t.Context(), client, "kube-system", programName); err != nil {
				t.Fatal(err)
			}
			got, err := client.CoordinationV1().Leases("kube-system").Get(t.Context(), programName, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if *got.Spec.HolderIdentity != test.want {
				t.Errorf("holder %q, want %q", *got.Spec.HolderIdentity, test.want)
			}
			if test.want == "" && *got.Spec.LeaseDurationSeconds != 1 {
				t.Errorf("the Lease lives for %d s more, want 1", *got.Spec.LeaseDurationSeconds)
			}
		})
	}
	if err := release(t.Context(), fake.NewClientset(), "kube-system", programName); err == nil {
		t.Error("a Lease that is not there was released")
	}
}
