package faults

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
)

const halfASecond = "fdatasync,fsync:delay_exit=500000"

// Row 28: every sync of one log takes half a second. Writes that need the disk take so long and none fails; nobody is declared
// FAILED, nothing is elected, health names the disk, and the finding goes when the disk is well.
func TestSlowSync(t *testing.T) {
	for _, role := range []string{"primary", "follower"} {
		t.Run(role, func(t *testing.T) {
			if role == "follower" {
				Long(t)
			}
			h, w, primary, others := atWork(t, setup{shards: 1}, 100)
			victim := primary
			if role == "follower" {
				victim = others[0]
			}
			h.slow(t, w, victim, h.segment(t, victim, "shard-1"))
		})
	}
}

// Row 28 where all syncs of the node are slow, those of its member of the control plane too, which leads it.
func TestSlowSyncOfAControlNode(t *testing.T) {
	Long(t)
	h, w, primary, _ := atWork(t, setup{shards: 1}, 100)
	h.leadEtcd(t, primary)
	h.slow(t, w, primary, "")
}

// slow makes the node's syncs slow for a while, of one file or of all.
func (h *hosts) slow(t *testing.T, w *work, victim, file string) {
	t.Helper()
	r, err := h.report()
	must(t, err)
	before, _ := r.Shard("shard-1")
	i := h.inject(t, victim, file, halfASecond)
	h.until("health names the disk", rto, func(r health.Report) bool { return finds(r, health.DiskIsSlow, victim) })
	var took []time.Duration
	for n := range 4 {
		began := time.Now()
		if status, body := h.request(http.MethodPut, h.names[n%len(h.names)], fmt.Sprintf("slow-%d?timeout_ms=8000", n), `{"v":1}`); status != http.StatusOK {
			t.Errorf("a write: %d %s", status, body)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	if took[1] < 400*time.Millisecond || took[3] > 8*time.Second {
		t.Errorf("writes took %s", took)
	}
	w.more(t, 10, rto)
	r, err = h.report()
	must(t, err)
	if now, _ := r.Shard("shard-1"); now.Epoch != before.Epoch || len(now.ISR) != len(before.ISR) || h.said("action=declare_failed", h.names...) > 0 {
		t.Errorf("it was %+v and is %+v", before, now)
	}
	i.end()
	h.until("health is content with the disk", rto, func(r health.Report) bool { return healthy(r) && !finds(r, health.DiskIsSlow, victim) })
	w.more(t, 100, rto)
	w.end(t, 200)
	if slices.ContainsFunc(w.answers, func(a answer) bool { return a.unknown }) {
		t.Error("a write has no known outcome")
	}
}

// A log that is damaged while its copy serves it, or can't be read: found by itself, told with file and offset, and the copy is built
// anew, whether it led or followed. Documents are what they were.
func TestLogDamagedWhileServed(t *testing.T) {
	for _, role := range []string{"primary", "follower"} {
		t.Run(role, func(t *testing.T) {
			if role == "follower" {
				Long(t)
			}
			if role == "follower" {
				Long(t)
			}
			h, w, primary, others := atWork(t, setup{shards: 1}, 200)
			victim := primary
			if role == "follower" {
				victim = others[0]
			}
			must(t, Flip(h.segment(t, victim, "shard-1"), 700))
			h.until("it is found and mended", heal, func(r health.Report) bool {
				return healthy(r) && h.tells(t, victim, "action=log_damage", "shard-1/wal/0", "offset") && h.tells(t, victim, "msg=installed", "shard=shard-1")
			})
			w.more(t, 100, rto)
			w.end(t, 300)
		})
	}
}

// Row 33: the disk of a primary refuses to read its log while a follower is served from it. The copy is out and is made anew on the free node.
func TestLogCanNotBeRead(t *testing.T) {
	h, w, primary, _ := atWork(t, setup{shards: 1}, 200)
	i := h.inject(t, primary, h.segment(t, primary, "shard-1"), "pread64:error=EIO")
	h.until("the copy is made anew on the free node", heal, func(r health.Report) bool {
		return healthy(r) && !slices.Contains(copies(r, "shard-1"), primary)
	})
	i.end()
	if !h.tells(t, primary, "action=log_damage", "input/output error", "offset") || !h.alive(primary) {
		t.Errorf("%s did not say what is wrong with its log, or has ended", primary)
	}
	w.more(t, 100, rto)
	w.end(t, 300)
}
