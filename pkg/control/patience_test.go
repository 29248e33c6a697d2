package control

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Every connection between members, dialed or accepted, ends by itself when the other side has fallen silent; other connections
// of the process are left alone.
func TestConnectionsBetweenMembersAreImpatient(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t)
	names := []string{"node-1", "node-2", "node-3"}
	peers, clients := map[uint16]bool{}, map[uint16]bool{}
	for _, n := range names {
		o := e.add(n)
		peers[portOf(o.PeerURL)], clients[portOf(o.ClientURL)] = true, true
	}
	e.start(names...)
	if _, err := e.running["node-1"].Members(t.Context()); err != nil { // over the client ports
		t.Fatal(err)
	}
	until(t, "all connections between the members are limited", func() bool {
		limits := timeouts(t, peers)
		for _, ms := range limits {
			if ms != int(peerPatience.Milliseconds()) {
				return false
			}
		}
		return len(limits) >= 2*2*len(names) // each has at least two streams to each other one, whose both ends are here
	})
	for _, ms := range timeouts(t, clients) {
		if ms == int(peerPatience.Milliseconds()) {
			t.Error("a client's connection was limited")
		}
	}
}

// timeouts are the TCP_USER_TIMEOUT of this process's connections that have one of the ports at either end, in ms.
func timeouts(t *testing.T, of map[uint16]bool) (out []int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		remote, err := unix.Getpeername(fd)
		if err != nil {
			continue
		}
		local, err := unix.Getsockname(fd)
		if err != nil || !of[tcpPort(local)] && !of[tcpPort(remote)] {
			continue
		}
		if ms, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err == nil {
			out = append(out, ms)
		}
	}
	return out
}
