package provider

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/ipam"
)

// publish writes a status as another controller or a person does.
func (c *cluster) publish(name string, ingress ...v1.LoadBalancerIngress) {
	c.t.Helper()
	svc := c.get(name)
	svc.Status.LoadBalancer.Ingress = ingress
	if _, err := c.client.CoreV1().Services("default").UpdateStatus(c.t.Context(), svc,
		metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

func TestStatusIsWrittenAgain(t *testing.T) {
	proxy := v1.LoadBalancerIPModeProxy
	for name, written := range map[string][]v1.LoadBalancerIngress{
		"wiped":          nil,
		"overwritten":    {{IP: "192.0.2.21"}},
		"one too many":   {{IP: "192.0.2.64"}, {IP: "192.0.2.21"}},
		"by a host name": {{Hostname: "lb.example.com"}},
		"another ipMode": {{IP: "its own", IPMode: &proxy}},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web"), named("other")},
				func(c *cluster) {
					want := c.get("web").Status
					written := slices.Clone(written)
					if len(written) > 0 && written[0].IP == "its own" {
						written[0].IP = want.LoadBalancer.Ingress[0].IP
					}
					c.publish("web", written...)
					time.Sleep(statusPatrol)
					synctest.Wait()
					if got := c.get("web").Status.LoadBalancer.Ingress; len(got) != 1 ||
						got[0].IP != want.LoadBalancer.Ingress[0].IP || *got[0].IPMode != v1.LoadBalancerIPModeVIP || len(got[0].Ports) != 2 {
						t.Errorf("status %+v, want %+v", got, want)
					}
					time.Sleep(time.Hour)
					c.wantEnsured([]int{2, 1}, "web", "other")
				})
		})
	}
}

// An API server that knows no ipMode drops it, and is not asked to keep it every half minute.
func TestStatusWithoutMode(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
		c.publish("web", v1.LoadBalancerIngress{IP: c.get("web").Status.LoadBalancer.Ingress[0].IP})
		before := c.ensured("web")[0]
		time.Sleep(time.Hour)
		if n := c.ensured("web")[0] - before; n != 0 {
			t.Errorf("it was written %d times", n)
		}
	})
}

// Another controller that writes the same status has the last word for a while, but no more of our time than that.
func TestStatusIsNotFoughtOver(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
		before := c.ensured("web")[0]
		for range 100 {
			c.publish("web", v1.LoadBalancerIngress{IP: "192.0.2.21"})
		}
		if n := c.ensured("web")[0] - before; n < 3 || n > 4 {
			t.Errorf("%d times in 100 seconds", n)
		}
	})
}

// Who waits is tried again when it is time, not by this.
func TestStatusOfWhoWaits(t *testing.T) {
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web"),
		named("goes", keeping("example.com/x"))}, func(c *cluster) {
		c.change("goes", deleting)
		c.manager.failing(&ipam.RequestError{})
		c.change("web", annotate("example.com/x", "y"))
		c.publish("web")
		before := c.ensured("web")[0]
		time.Sleep(10 * retryLater)
		synctest.Wait()
		if n := c.ensured("web")[0] - before; n != 10 {
			t.Errorf("tried %d times in ten times %s", n, retryLater)
		}
		c.wantEnsured([]int{1}, "goes")
	})
}
