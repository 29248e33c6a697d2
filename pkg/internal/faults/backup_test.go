package faults

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
)

// ends says whether the node's process ends by itself in time.
func (h *hosts) ends(name string, limit time.Duration) bool {
	h.mu.Lock()
	p := h.proc[name]
	h.mu.Unlock()
	select {
	case <-p.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// Row 37: a backup of a node's disk is put back after more was written, while the primary of one of its shards is away, so that it
// would be the only member of the in-sync set. It does not start, says why, and nothing that was acknowledged is lost.
func TestOldBackupIsRefused(t *testing.T) {
	const victim = "node-4" // holds no part of the control plane
	h := newHosts(t, setup{names: []string{"node-1", "node-2", "node-3", victim}, shards: 4})
	w := h.work(4)
	w.more(t, 150, rto)
	h.kill(victim)
	backup := h.disk[victim] + ".backup"
	if out, err := exec.Command("cp", "-a", h.disk[victim], backup).CombinedOutput(); err != nil { //nolint:gosec,noctx // our own directories
		t.Fatalf("%v: %s", err, out)
	}
	h.start(victim)
	r := h.until("it follows again", heal, healthy)
	primary := ""
	for _, s := range r.Shards {
		for _, n := range s.ISR {
			if string(n) == victim && string(s.Primary) != victim {
				primary = string(s.Primary)
			}
		}
	}
	if primary == "" {
		t.Fatalf("%s follows nobody", victim)
	}
	w.more(t, 150, rto)
	h.kill(victim, primary)
	must(t, os.RemoveAll(h.disk[victim]))
	must(t, os.Rename(backup, h.disk[victim]))
	h.start(victim)
	if !h.ends(victim, rto) || !h.tells(t, victim, "older state of itself") || !h.tells(t, victim, "next: ", "node join ADDR --replace") {
		t.Error("a node with an older state of its disk goes on, or does not say why it doesn't")
	}
	h.kill(victim)
	h.start(primary)
	h.until("everything is served", heal, func(r health.Report) bool {
		for _, s := range r.Shards {
			if s.Readable == nil || !*s.Readable || s.Writable == nil || !*s.Writable {
				return false
			}
		}
		return true
	})
	w.more(t, 50, rto)
	w.end(t, 300)
}
