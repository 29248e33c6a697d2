package loopback

import (
	"net"
	"slices"
	"sync"
	"testing"
)

// Whoever asks at once is given different ports; each can be opened, and none is given anew while it is held.
func TestPortsAreGivenOnce(t *testing.T) {
	const callers, each = 40, 25
	var mu sync.Mutex
	var all []string
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			got := Addrs(t, each)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, got...)
		})
	}
	wg.Wait()
	if len(all) != callers*each {
		t.Fatalf("%d ports", len(all))
	}
	slices.Sort(all)
	if got := slices.Compact(slices.Clone(all)); len(got) != len(all) {
		t.Errorf("%d of %d ports were given twice", len(all)-len(got), len(all))
	}
	for _, a := range all {
		l, err := net.Listen("tcp", a)
		if err != nil {
			t.Errorf("given, but not free: %v", err)
			continue
		}
		_ = l.Close()
	}
}

// What was given back is free for the next.
func TestPortsAreGivenBack(t *testing.T) {
	ports, marks, err := Ports(50)
	if err != nil || len(ports) != 50 {
		t.Fatal(ports, err)
	}
	if err := marks.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(Host), Port: p})
		if err != nil {
			t.Errorf("%d is held still: %v", p, err)
			continue
		}
		_ = c.Close()
	}
}
