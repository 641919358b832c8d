package loadbalancer_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
)

func (*fakeLedger) Name() string { return "ConfigMap kube-system/addresses" }

func reservedFor(s *site, address, name string) loadbalancer.PoolSettings {
	pools := s.settings.PoolSettings
	pools.Reservations = []ipam.Reservation{{Address: addresses(address)[0], Owner: ipam.Owner(key(name))}}
	return pools
}

// reservationsTold gives the texts that were told in general and to each of the Services, which must be the same.
func reservationsTold(t *testing.T, s *site, names ...string) (texts []string) {
	t.Helper()
	for _, err := range s.observer.toldOf() {
		texts = append(texts, err.Error())
	}
	_, _, notices := s.observer.seen()
	s.observer.forget()
	for name, told := range map[string]bool{"a": false, "vip": false} {
		err := notices[key(name)]
		if told = slices.Contains(names, name); told != isA[*loadbalancer.ReservationError](err) || told && !slices.Contains(texts, err.Error()) {
			t.Errorf("%s was told %v, in general: %q", name, err, texts)
		}
	}
	return texts
}

// TestReservationThatAnotherHas is told to both, when it becomes so and when it changes, and never twice.
func TestReservationThatAnotherHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		told := func(want string, names ...string) {
			t.Helper()
			time.Sleep(3 * time.Hour)
			texts := reservationsTold(t, s, names...)
			if want == "" && len(texts) != 0 || want != "" && !slices.Equal(texts, []string{want}) {
				t.Errorf("told %q\nwant %q", texts, want)
			}
		}
		told("")
		if err := c.SetPools(reservedFor(s, "10.0.0.1", "vip")); err != nil {
			t.Fatal(err)
		}
		told("address 10.0.0.1 is reserved for Service default/vip, but Service default/a has it and keeps it, so that default/vip would get "+
			"another one now; request another one for default/a (annotation load-balancer-ips), or remove the reservation", "a")
		told("")
		if got := s.ensure(c, web("vip", 80)).Addresses[0].String(); got != "10.0.0.2" {
			t.Fatalf("vip has %s", got)
		}
		told("address 10.0.0.1 is reserved for Service default/vip, but Service default/a has it and keeps it, and default/vip has 10.0.0.2; "+
			"request another one for default/a, then 10.0.0.1 for default/vip (annotation load-balancer-ips), or remove the reservation", "a", "vip")
		s.ensure(c, requesting(web("a", 80), "10.0.0.3"))
		told("address 10.0.0.1 is reserved for Service default/vip, which has 10.0.0.2 and keeps that; request 10.0.0.1 for default/vip "+
			"(annotation load-balancer-ips), or remove the reservation", "vip")
		s.ensure(c, requesting(web("vip", 80), "10.0.0.1"))
		told("")
		s.ensure(c, web("vip", 80)) // it keeps it
		told("")
	})
}

// TestReservationAtTheStart: who comes back with an address of its own hears of it from the next controller, too.
func TestReservationAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		s.settings.PoolSettings = reservedFor(s, "10.0.0.3", "a")
		c := s.start(replayed(web("a", 80), "10.0.0.1"))
		defer c.stop()
		time.Sleep(time.Second)
		if texts := reservationsTold(t, s, "a"); len(texts) != 1 || !strings.Contains(texts[0], "which has 10.0.0.1 and keeps that") {
			t.Errorf("told %q", texts)
		}
	})
}

// TestReservationThatIsAskedFor: whoever is refused knows already, and reads why.
func TestReservationThatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		s.settings.PoolSettings = reservedFor(s, "10.0.0.3", "a")
		s.settings.Exclusions = []ipam.Exclusion{ipam.Exclude(addresses("10.0.0.3")[0], "a printer")}
		c := s.start(replayed(requesting(web("a", 80), "10.0.0.3"), "10.0.0.1"))
		defer c.stop()
		if _, err := c.Ensure(t.Context(), requesting(web("a", 443), "10.0.0.3")); !isA[*ipam.ExcludedError](err) {
			t.Errorf("got %v", err)
		}
		if texts := reservationsTold(t, s); len(texts) != 0 {
			t.Errorf("told %q", texts)
		}
		// A Service with one of two that are reserved for it has no use for the other.
		pools := reservedFor(s, "10.0.0.2", "a")
		pools.Reservations = append(pools.Reservations, ipam.Reservation{Address: addresses("10.0.0.1")[0], Owner: ipam.Owner(key("a"))})
		if err := c.SetPools(pools); err != nil {
			t.Fatal(err)
		}
		s.ensure(c, web("a", 80))
		if texts := reservationsTold(t, s); len(texts) != 0 {
			t.Errorf("told %q", texts)
		}
	})
}

// TestKeptAndReservedForAnother: the configuration counts, and who was kept hears of it.
func TestKeptAndReservedForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		if err := c.Delete(t.Context(), key("a"), true); err != nil {
			t.Fatal(err)
		}
		if err := c.SetPools(reservedFor(s, "10.0.0.1", "vip")); err != nil {
			t.Fatal(err)
		}
		want := "address 10.0.0.1 is kept for Service default/a (keep-ip), and the configuration reserves it for Service default/vip, which " +
			"counts: default/a gets another one; remove the reservation, or delete its entry in ConfigMap kube-system/addresses"
		time.Sleep(3 * time.Hour)
		if texts := reservationsTold(t, s); !slices.Equal(texts, []string{want}) {
			t.Errorf("told %q\nwant %q", texts, want)
		}
		// Each of the two is told when it comes; the configuration's owner has heard of it.
		for _, name := range []string{"vip", "a"} {
			s.ensure(c, web(name, 80))
			time.Sleep(3 * time.Hour)
			_, _, notices := s.observer.seen()
			if err := notices[key(name)]; err == nil || err.Error() != want {
				t.Errorf("%s was told %v\nwant %s", name, err, want)
			}
			s.observer.forget()
		}
		if texts := reservationsTold(t, s); len(texts) != 0 {
			t.Errorf("told again: %q", texts)
		}
	})
}

// TestKeptSharerIsExpected beside the Service with which it shared the address: nothing is wrong.
func TestKeptSharerIsExpected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		c := s.start()
		defer c.stop()
		for name, port := range map[string]uint16{"a": 80, "vip": 443} {
			s.ensure(c, sharing(web(name, port), "k"))
		}
		if err := c.Delete(t.Context(), key("a"), true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		s.ensure(c, sharing(web("a", 80), "k"))
		time.Sleep(time.Hour)
		if texts := reservationsTold(t, s); len(texts) != 0 {
			t.Errorf("told %q", texts)
		}
	})
}

// TestSharersJoinAtAReservedAddress once its owner is there, also by name and over a restart.
func TestSharersJoinAtAReservedAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		s.settings.PoolSettings = reservedFor(s, "10.0.0.3", "a")
		c := s.start()
		asks := sharing(requesting(web("b", 443), "10.0.0.3"), "k")
		if _, err := c.Ensure(t.Context(), asks); !isA[*ipam.ReservedError](err) {
			t.Errorf("before a is there: %v", err)
		}
		for _, service := range []loadbalancer.Service{sharing(web("a", 80), "k"), asks, sharing(web("d", 22), "k")} {
			if got := s.ensure(c, service).Addresses[0].String(); got != "10.0.0.3" {
				t.Errorf("%s has %s", service.LoadBalancer.Key, got)
			}
		}
		_ = c.stop()
		c = s.start(replayed(sharing(web("d", 22), "k"), "10.0.0.3"), replayed(sharing(web("a", 80), "k"), "10.0.0.3"), replayed(asks, "10.0.0.3"))
		defer c.stop()
		if got := s.ensure(c, sharing(web("d", 22), "k")).Addresses[0].String(); got != "10.0.0.3" {
			t.Errorf("after a restart d has %s", got)
		}
		if texts := reservationsTold(t, s); len(texts) != 0 {
			t.Errorf("told %q", texts)
		}
	})
}

// TestAddressWithoutAPoolIsToldEveryHour, for an Event lives no longer, as long as it is so.
func TestAddressWithoutAPoolIsToldEveryHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		c := s.start(replayed(web("a", 80), "10.0.9.1"))
		defer c.stop()
		var told int
		for range 12 * 60 {
			time.Sleep(time.Minute)
			_, _, notices := s.observer.seen()
			s.observer.forget()
			if err := notices[key("a")]; err != nil {
				told++
				want := "address 10.0.9.1 is in no pool (default: 10.0.0.1-10.0.0.3); request one of these, or add it to a pool; the " +
					"Service keeps it as long as it does not ask for another one"
				if !isA[*loadbalancer.KeptError](err) || err.Error() != want {
					t.Errorf("told %v\nwant %s", err, want)
				}
			}
		}
		if told < 11 || told > 13 {
			t.Errorf("told %d times in 12 hours", told)
		}
		s.ensure(c, requesting(web("a", 80), "10.0.0.1"))
		s.observer.forget()
		time.Sleep(2 * time.Hour)
		if _, _, notices := s.observer.seen(); len(notices) != 0 {
			t.Errorf("told %v afterwards", notices)
		}
	})
}

// TestRefusalsSayWhenAndHow: until when an address is quarantined, and where that can be ended.
func TestRefusalsSayWhenAndHow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.2", "gw1")
		s.network.has("10.0.0.1", stranger)
		s.network.has("10.0.0.2", worker)
		c := s.start()
		defer c.stop()
		const where = ", and before when its entry in ConfigMap kube-system/addresses is deleted"
		refused := func(service loadbalancer.Service, want string) {
			t.Helper()
			_, err := c.Ensure(t.Context(), service)
			want = strings.ReplaceAll(want, "UNTIL", time.Now().Add(10*time.Minute).UTC().Format("2006-01-02T15:04:05Z"))
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		}
		refused(requesting(web("a", 80), "10.0.0.1"), "address 10.0.0.1 is quarantined: "+stranger.MAC+", which is no gateway, answered for it on the "+
			"network; request another one; it is tried again after UNTIL"+where+": take it from that machine first")
		_, _, notices := s.observer.seen()
		if err := notices[key("a")]; err == nil || !strings.Contains(err.Error(), "it is quarantined and the Service has to wait") {
			t.Errorf("told %v", err)
		}
		refused(requesting(web("b", 80), "10.0.0.2"), "address 10.0.0.2 is quarantined: "+worker.MAC+" (node n1), which is no gateway, answered for it "+
			"on the network; request another one; it is tried again after UNTIL"+where+": if kube-proxy runs there in IPVS mode, set its "+
			"ipvs.strictARP to true, or ipMode: Proxy in the cloud configuration")
		time.Sleep(time.Minute)
		_, err := c.Ensure(t.Context(), web("c", 80))
		if !isA[*ipam.ExhaustedError](err) || !strings.HasSuffix(err.Error(), where) || !strings.Contains(err.Error(), "what is quarantined is tried again after") {
			t.Errorf("no address is free: %v", err)
		}
	})
}

// TestNoOtherAddressIsPromised when there is none.
func TestNoOtherAddressIsPromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.2", "gw1")
		s.network.has("10.0.0.1", stranger)
		s.network.has("10.0.0.2", worker)
		c := s.start()
		defer c.stop()
		_, _ = c.Ensure(t.Context(), web("a", 80))
		_, _, notices := s.observer.seen()
		if err := notices[key("a")]; err == nil || !strings.Contains(err.Error(), "it is quarantined, and another address is taken if there is one; ") {
			t.Errorf("told %v", err)
		}
	})
}

// TestKeptAddressSaysWhere its entry is.
func TestKeptAddressSaysWhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		_ = c.Delete(t.Context(), key("a"), true)
		_, err := c.Ensure(t.Context(), requesting(web("b", 80), "10.0.0.1"))
		if want := "address 10.0.0.1 is reserved for Service default/a; request another address, or remove that reservation; it was kept for " +
			"that Service (keep-ip): the reservation is its entry in ConfigMap kube-system/addresses"; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

// TestKeptServiceChoosesAnother address when it comes back: nothing is kept for it then, and nothing is wrong.
func TestKeptServiceChoosesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.1-10.0.0.3", "gw1")
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		if err := c.Delete(t.Context(), key("a"), true); err != nil {
			t.Fatal(err)
		}
		s.ensure(c, requesting(web("a", 80), "10.0.0.2"))
		time.Sleep(time.Hour)
		if texts := reservationsTold(t, s); len(texts) != 0 {
			t.Errorf("told %q", texts)
		}
	})
}
