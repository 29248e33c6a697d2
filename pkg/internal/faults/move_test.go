package faults

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
)

// move gives a node that doesn't run ports for its next start that no node of the cluster ever had.
func (h *hosts) move(name string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.net != nil {
		for i, port := range ownPorts {
			h.addr[name][parts[i]] = fmt.Sprintf("%s:%d", h.net.Addr(name), port+100)
		}
		return
	}
	for i, a := range loopback.Addrs(h.t, len(parts)) { // those that it had are held until the test ends
		h.addr[name][parts[i]] = a
	}
}

// All nodes of a cluster, each a member of its control plane, move one after the other, whether they stop in order or are killed;
// writes go on, and nothing that was acknowledged is lost.
func TestNodesMoveOneAfterTheOther(t *testing.T) {
	h := newHosts(t, setup{shards: 2})
	w := h.work(2)
	for i, name := range h.names {
		w.more(t, 40, rto)
		if i == 0 {
			h.signal(name, syscall.SIGTERM)
			if !h.ends(name, rto) {
				t.Fatalf("%s does not end", name)
			}
		}
		h.kill(name)
		h.move(name)
		h.start(name)
		h.until(name+" is found at its new address", heal, func(r health.Report) bool {
			for _, n := range r.Nodes {
				if string(n.ID) == name && n.GRPC != h.addr[name]["grpc"] {
					return false
				}
			}
			return healthy(r)
		})
	}
	w.more(t, 40, rto)
	w.end(t, 100)
}

// Every member of the control plane moves while a node is away that is none, whether its process has ended or is cut off. It knows only
// where they were, and is told by a node that stayed; then all is as before.
func TestControlPlaneMovesWhileANodeIsAway(t *testing.T) {
	const away = "node-4"
	for _, how := range []string{"ended", "cut"} {
		t.Run(how, func(t *testing.T) {
			if how == "cut" {
				Long(t)
			}
			h := newHosts(t, setup{names: []string{"node-1", "node-2", "node-3", away, "node-5"}, shards: 2, net: how == "cut"})
			w := h.workNear(5, "k")
			w.more(t, 40, rto)
			goes, comes := func(n string) { h.kill(n) }, h.start
			if how == "cut" {
				goes, comes = func(n string) { h.net.Cut([]string{n}, without(h.names, n)) }, func(string) { h.net.Heal() }
			}
			goes(away)
			for _, name := range h.names[:3] {
				h.kill(name)
				h.move(name)
				h.start(name)
				h.until(name+" is found at its new address, and all others are up", heal, func(r health.Report) bool {
					for _, n := range r.Nodes {
						if string(n.ID) == name && n.GRPC != h.addr[name]["grpc"] || string(n.ID) != away && n.State != cluster.Up {
							return false
						}
					}
					return r.Control.Quorum != nil && *r.Control.Quorum && len(r.Control.Members) == 3
				})
			}
			comes(away)
			h.ask = []string{away}
			h.until(away+" knows where all are, and is back", heal, func(r health.Report) bool {
				for _, n := range r.Nodes {
					if n.GRPC != h.addr[string(n.ID)]["grpc"] {
						return false
					}
				}
				return healthy(r)
			})
			w.more(t, 40, rto)
			w.end(t, 80)
		})
	}
}
