package control

import (
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/pkg/internal/guard"
)

// Connections between the members of etcd end when nothing that was sent on them is confirmed for peerPatience, and are made anew.
// etcd sets no such limit on those that it dials (its transport's DialContext takes the place of the Dial that has one), so that TCP
// alone decides: it repeats what was lost after a time that doubles, and a member that was cut off for a minute would be cut off for
// about another one. See docs/adr/0010.

const (
	peerPatience = 4 * time.Second
	peerIdle     = 2 * time.Second // a connection on which nobody writes is asked after so long
	patienceLook = time.Second     // between two looks for new connections
)

// endSilentPeers looks for connections with other members until the member is stopped.
func (s *Server) endSilentPeers() {
	if !guard.On(guard.PeerPatience) {
		return
	}
	tick := time.NewTicker(patienceLook)
	defer tick.Stop()
	var p patience
	for {
		own, others := s.peerPorts()
		p.limit(func(local, remote uint16) bool { return local == own || others[remote] })
		select {
		case <-s.running.Done():
			return
		case <-tick.C:
		}
	}
}

// peerPorts are those on which this member listens for others, and on which they do. What a member is known by may be a name, so
// that its addresses say less than its port.
func (s *Server) peerPorts() (own uint16, others map[uint16]bool) {
	own, others = portOf(s.o.PeerURL), map[uint16]bool{}
	for _, m := range s.etcd.Server.Cluster().Members() {
		for _, u := range m.PeerURLs {
			if p := portOf(u); p != 0 {
				others[p] = true
			}
		}
	}
	return own, others
}

// portOf is the port of a peer URL; 0: it has none.
func portOf(peerURL string) uint16 {
	u, err := url.Parse(peerURL)
	if err != nil {
		return 0
	}
	p, _ := strconv.ParseUint(u.Port(), 10, 16)
	return uint16(p) //nolint:gosec // sixteen bits were read
}

// patience finds this process's connections among its descriptors: those that etcd dials can be reached by no other way.
type patience struct {
	known map[string]bool // sockets that were looked at, by the kernel's name for each
}

// limit sets the time limits of every new connection that is meant.
func (p *patience) limit(meant func(local, remote uint16) bool) {
	const dir = "/proc/self/fd"
	files, err := os.ReadDir(dir)
	if err != nil {
		return // without /proc connections are as patient as the kernel
	}
	known := map[string]bool{}
	for _, f := range files {
		name, err := os.Readlink(dir + "/" + f.Name())
		if err != nil || !strings.HasPrefix(name, "socket:") {
			continue
		}
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		if p.known[name] || limitOne(fd, meant) {
			known[name] = true
		}
	}
	p.known = known
}

// limitOne sets one connection's limits, if it is meant, and says whether it need not be looked at again. It holds the socket by a
// descriptor of its own, so that what it sets is set on the socket that it looked at, whatever becomes of the number.
func limitOne(fd int, meant func(local, remote uint16) bool) bool {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor
	if err != nil {
		return false // it was closed a moment ago
	}
	defer func() { _ = unix.Close(own) }()
	remote, err := unix.Getpeername(own)
	if err != nil {
		return false // it listens, or isn't connected yet
	}
	local, err := unix.Getsockname(own)
	if err != nil {
		return false
	}
	if from, to := tcpPort(local), tcpPort(remote); from == 0 || to == 0 || !meant(from, to) {
		return true
	}
	for _, o := range peerLimits {
		if unix.SetsockoptInt(own, o.level, o.name, o.value) != nil {
			return true // no TCP: the kernel's own patience holds
		}
	}
	return true
}

// tcpPort is the port of an internet socket; 0: it is another one.
func tcpPort(a unix.Sockaddr) uint16 {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port) //nolint:gosec // a port
	case *unix.SockaddrInet6:
		return uint16(a.Port) //nolint:gosec // a port
	}
	return 0
}
