package ipam_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud-provider-haproxy/ipam"
)

// inUse are the sizes that are promised to cost much the same.
var inUse = []int{1_000, 16_000, 65_000, 1_000_000}

// What is promised. `make bench` fails above it; unit tests do not measure time.
const (
	churnLimit   = 2 * time.Microsecond // to allocate and release
	rebuildLimit = 50 * time.Millisecond
	memoryLimit  = 200 // bytes for an address in use
)

// lap judges a benchmark by its fastest lap, for the machine may be busy with other things meanwhile.
type lap struct {
	times          int // how often the work is done in a lap
	begun, fastest time.Duration
}

// done is called after each time, the i-th from 0.
func (l *lap) done(b *testing.B, i int) {
	if (i+1)%l.times != 0 {
		return
	}
	now := b.Elapsed()
	if took := (now - l.begun) / time.Duration(l.times); l.fastest == 0 || took < l.fastest {
		l.fastest = took
	}
	l.begun = now
}

// hold fails when more than is promised was measured.
func (l *lap) hold(b *testing.B, limit time.Duration) {
	if l.fastest > limit {
		b.Fatalf("%v, and at most %v is promised", l.fastest, limit)
	}
}

// layouts are the kinds of pools that an allocator is measured with.
func layouts(t testing.TB, n int) map[string][]ipam.Pool {
	hundred := make([]ipam.Pool, 100)
	for i := range hundred {
		hundred[i] = pool(t, fmt.Sprintf("pool%d", i), fmt.Sprintf("10.%d.0.0/16", i))
	}
	l := map[string][]ipam.Pool{
		"v6-64":     {pool(t, "six", "2001:db8::/64")},
		"100-pools": hundred,
	}
	if n <= 65_000 {
		l["v4-16"] = []ipam.Pool{pool(t, "four", "10.0.0.0/16")}
	}
	return l
}

func filled(t testing.TB, pools []ipam.Pool, n int) *ipam.Allocator {
	a := newAllocator(t, exclusions(), pools...)
	family := ipam.IPv4
	if a.Counts()[0].Family == ipam.IPv6 {
		family = ipam.IPv6
	}
	for i := range n {
		if _, err := a.Allocate(numbered(i), ipam.Request{Families: []ipam.Family{family}}); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// exclusions are 100 in each layout, all among the addresses in use when there are a million.
func exclusions() (all []ipam.Exclusion) {
	exclude := func(address netip.Addr) { all = append(all, ipam.Exclude(address, "a gateway")) }
	six := netip.MustParseAddr("2001:db8::").As16()
	for i := range 100 {
		exclude(netip.AddrFrom4([4]byte{10, 0, byte(i), 7}))
		if i > 0 {
			exclude(netip.AddrFrom4([4]byte{10, byte(i), 0, 7}))
		}
		binary.BigEndian.PutUint32(six[12:], uint32(9_000*i+7))
		exclude(netip.AddrFrom16(six))
	}
	return all
}

// TestLayoutsHaveExclusions, or the benchmarks would measure less than is promised.
func TestLayoutsHaveExclusions(t *testing.T) {
	for name, pools := range layouts(t, 1_000) {
		without, with := size(newAllocator(t, nil, pools...)), size(newAllocator(t, exclusions(), pools...))
		if without-with < 99 { // the size of a whole /64 is told one short
			t.Errorf("%s: %d addresses are excluded", name, without-with)
		}
	}
}

func size(a *ipam.Allocator) (all uint64) {
	for _, c := range a.Counts() {
		all += c.Size
	}
	return all
}

func numbered(i int) ipam.Owner { return ipam.Owner{Namespace: "bench", Name: serviceNames()[i]} }

// serviceNames are made once: a real owner's name belongs to the Service object.
var serviceNames = sync.OnceValue(func() []string {
	all := make([]string, 1_000_002)
	for i := range all {
		all[i] = fmt.Sprintf("service-%d", i)
	}
	return all
})

// BenchmarkAllocateRelease lets a Service come and go while n others stay ("new"), and lets any of n go and come back
// ("any"). The second is the worst case: what it touches is in no cache when there are a million. How many times as long
// it takes as with a thousand in use is told and not judged: it is the cache's doing and the machine's.
func BenchmarkAllocateRelease(b *testing.B) {
	draws := map[string]func(i, n int) ipam.Owner{
		"new": func(i, _ int) ipam.Owner { return ipam.Owner{Namespace: "new", Name: numbered(i % 1000).Name} },
		"any": func(i, n int) ipam.Owner { return numbered(int(uint32(i)*2654435761) % n) },
	}
	for _, layout := range []string{"v4-16", "v6-64", "100-pools"} {
		for _, who := range []string{"new", "any"} {
			var small float64
			for _, n := range inUse {
				pools, ok := layouts(b, n)[layout]
				if !ok {
					continue
				}
				b.Run(fmt.Sprintf("%s/%s/%d", layout, who, n), func(b *testing.B) {
					churn(b, filled(b, pools, n), func(i int) ipam.Owner { return draws[who](i, n) })
					per := float64(b.Elapsed()) / float64(b.N)
					if n == inUse[0] {
						small = per
					}
					if small > 0 { // else the one with a thousand was not asked for
						b.ReportMetric(per/small, "times-1000")
					}
				})
			}
		}
	}
}

// churn releases, frees and allocates for the owners that draw gives, those first that have an address.
func churn(b *testing.B, a *ipam.Allocator, draw func(i int) ipam.Owner) {
	request := ipam.Request{Families: []ipam.Family{a.Counts()[0].Family}}
	release := func(o ipam.Owner) {
		for _, address := range a.Release(o) {
			a.Free(address, o)
		}
	}
	batch := make([]ipam.Owner, 64)
	held := len(a.Addresses(draw(0))) > 0
	l := lap{times: 1 << 15}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(batch) == 0 {
			b.StopTimer()
			read(batch, i, draw)
			b.StartTimer()
		}
		o := batch[i%len(batch)]
		if held {
			release(o)
		}
		if _, err := a.Allocate(o, request); err != nil {
			b.Fatal(err)
		}
		if !held {
			release(o)
		}
		l.done(b, i)
	}
	l.hold(b, churnLimit)
}

// read draws owners and reads their names, as a caller has done who translated a Service just now: with a million names
// the benchmark would measure the wait for them.
func read(batch []ipam.Owner, i int, draw func(i int) ipam.Owner) {
	for j := range batch {
		batch[j] = draw(i + j)
		if !strings.HasPrefix(batch[j].Name, "service-") {
			panic("not a Service's name")
		}
	}
}

// BenchmarkFullPools allocates and releases where 99 of 100 pools are full, for a Service that may use all of them, one
// with a list of all, and one with a list of three; and is refused where all are full.
func BenchmarkFullPools(b *testing.B) {
	var pools []ipam.Pool
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("pool%d", i))
		pools = append(pools, pool(b, names[i], fmt.Sprintf("10.%d.0.0/24", i)))
	}
	for _, c := range []struct {
		name  string
		inUse int
		pools []string
	}{
		{"any", 99 * 256, nil},
		{"list of 100", 99 * 256, names},
		{"list of 3", 99 * 256, names[97:]},
		{"exhausted", 100 * 256, nil},
		{"list of 3 exhausted", 99 * 256, names[:3]},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := newAllocator(b, nil, pools...)
			for i := range c.inUse {
				allocate(b, a, fmt.Sprint(i), ipam.Request{})
			}
			o := owner("new")
			for b.Loop() {
				addresses, _ := a.Allocate(o, ipam.Request{Families: []ipam.Family{ipam.IPv4}, Pools: c.pools})
				a.Release(o)
				for _, address := range addresses {
					a.Free(address, o)
				}
			}
		})
	}
}

// BenchmarkShare joins and leaves an address. Sharers that all have the same port have an address each, and every one of
// these is looked at before a new one is taken.
func BenchmarkShare(b *testing.B) {
	for _, c := range []struct {
		name  string
		inUse int
		port  func(i int) uint16
	}{
		{"1 address of 10 Services", 10, func(i int) uint16 { return uint16(i) + 1 }},
		{"1000 addresses, same port", 1000, func(int) uint16 { return 80 }},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := newAllocator(b, nil, pool(b, "four", "10.0.0.0/16"))
			for i := range c.inUse {
				allocate(b, a, fmt.Sprint(i), ipam.Request{Sharing: sharing("k", c.port(i))})
			}
			o, request := owner("new"), ipam.Request{Families: []ipam.Family{ipam.IPv4}, Sharing: sharing("k", 80)}
			for b.Loop() {
				addresses, err := a.Allocate(o, request)
				if err != nil {
					b.Fatal(err)
				}
				a.Release(o)
				a.Free(addresses[0], o)
			}
		})
	}
}

func BenchmarkRebuild16000(b *testing.B) {
	l := lap{times: 1}
	for n := 0; b.Loop(); n++ {
		a := newAllocator(b, nil, pool(b, "four", "10.0.0.0/16"))
		for i := range 16_000 {
			// Scattered, which is the worst for the runs ahead of the cursor.
			address := netip.AddrFrom4([4]byte{10, 0})
			bytes := address.As4()
			binary.BigEndian.PutUint16(bytes[2:], uint16(i*40503))
			if err := a.Claim(numbered(i), netip.AddrFrom4(bytes), ipam.Sharing{}); err != nil {
				b.Fatal(err)
			}
		}
		l.done(b, n)
	}
	l.hold(b, rebuildLimit)
}

// BenchmarkMemory tells what an address in use takes, of a million.
func BenchmarkMemory(b *testing.B) {
	for _, layout := range []string{"v6-64", "100-pools"} {
		b.Run(layout, func(b *testing.B) {
			for b.Loop() {
				per := memoryPerAddress(b, layout)
				b.ReportMetric(per, "B/address")
				if per > memoryLimit {
					b.Fatalf("%.0f bytes an address in use, and at most %d are promised", per, memoryLimit)
				}
			}
		})
	}
}

func TestMemoryPerAddress(t *testing.T) {
	for _, layout := range []string{"v6-64", "100-pools"} {
		per := memoryPerAddress(t, layout)
		t.Logf("%s: %.0f bytes an address", layout, per)
		if per > memoryLimit {
			t.Errorf("%s: %.0f bytes an address in use, and at most %d are promised", layout, per, memoryLimit)
		}
	}
}

func memoryPerAddress(t testing.TB, layout string) float64 {
	const n = 1_000_000
	serviceNames() // not counted: a Service object has its name anyway
	pools := layouts(t, n)[layout]
	before := heap()
	a := filled(t, pools, n)
	per := float64(heap()-before) / n
	runtime.KeepAlive(a)
	return per
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// TestCostDoesNotGrow compares the same work at 1000 and at 1 000 000 in use. The bound is wide, for the machine may be
// busy; a structure that walks what is in use is slower by orders.
func TestCostDoesNotGrow(t *testing.T) {
	cost := func(n int) time.Duration {
		a := filled(t, layouts(t, n)["v6-64"], n)
		request := ipam.Request{Families: []ipam.Family{ipam.IPv6}}
		best := time.Hour
		for range 5 {
			start := time.Now()
			for range 1000 {
				a.Release(numbered(0))
				if _, err := a.Allocate(numbered(1_000_000), request); err != nil {
					t.Fatal(err)
				}
				a.Release(numbered(1_000_000))
				if _, err := a.Allocate(numbered(0), request); err != nil {
					t.Fatal(err)
				}
				for _, r := range a.Releasing() {
					a.Free(r.Address, r.Owner)
				}
			}
			best = min(best, time.Since(start))
		}
		return best / 1000
	}
	small, large := cost(1_000), cost(1_000_000)
	t.Logf("two allocations and releases: %v with 1000 in use, %v with 1 000 000", small, large)
	if large > 20*small {
		t.Errorf("%v with 1000 in use, %v with 1 000 000", small, large)
	}
}
