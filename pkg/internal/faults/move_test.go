package faults

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/themisdb/themis/pkg/health"
)

// move gives a node that doesn't run other ports for its next start.
func (h *hosts) move(name string) {
	h.t.Helper()
	ports := freePorts(h.t, len(parts))
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, port := range ports {
		h.addr[name][parts[i]] = fmt.Sprintf("127.0.0.1:%d", port)
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
