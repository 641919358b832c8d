package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
)

// release gives up the Lease that this process holds, in the form in which client-go's LeaderElector does it (release in
// k8s.io/client-go/tools/leaderelection): no holder, one second. The elector itself still runs and would take it again at
// its next renewal, two seconds later at most; the process is gone by then.
func release(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("releasing Lease %s/%s: %w", namespace, name, err)
	}
	leases := client.CoordinationV1().Leases(namespace)
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error { // the elector renews it meanwhile
		lease, err := leases.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		// The library's identity is HOSTNAME_UUID, and tells the UUID nobody.
		if holder := lease.Spec.HolderIdentity; holder == nil || !strings.HasPrefix(*holder, host+"_") {
			klog.InfoS("The Lease is not ours to release", "holder", holder)
			return nil
		}
		now, second, nobody := metav1.NowMicro(), int32(1), ""
		lease.Spec.HolderIdentity = &nobody
		lease.Spec.LeaseDurationSeconds = &second
		lease.Spec.AcquireTime, lease.Spec.RenewTime = &now, &now
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("releasing Lease %s/%s: %w", namespace, name, err)
	}
	return nil
}
