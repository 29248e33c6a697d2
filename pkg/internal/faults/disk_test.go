package faults

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
)

// Faults of disks: no room (row 30), failing syncs (27, 31, 32), flipped bits (34), and kills between syncs (10).

// ownDisks gives every node a file system of its own.
func ownDisks(t *testing.T, megabytes int) (of map[string]*Disk, dir func(string) string) {
	t.Helper()
	of = map[string]*Disk{}
	return of, func(n string) string {
		of[n] = NewDisk(t, megabytes)
		return of[n].Dir + "/data"
	}
}

// atWork is a cluster with four clients, so many of whose writes are acknowledged, and who leads shard-1 and has its other copies.
func atWork(t *testing.T, s setup, writes int64) (h *hosts, w *work, primary string, others []string) {
	t.Helper()
	h = newHosts(t, s)
	w = h.work(4)
	w.more(t, writes, rto)
	r, err := h.report()
	must(t, err)
	primary, others = leads(r, "shard-1")
	return h, w, primary, others
}

func finds(r health.Report, code health.Code, subject string) bool {
	for _, f := range r.Findings {
		if f.Code == code && f.Subject == subject {
			return true
		}
	}
	return false
}

// alive says whether the node's process still runs.
func (h *hosts) alive(name string) bool {
	h.mu.Lock()
	p := h.proc[name]
	h.mu.Unlock()
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Row 30: a disk fills up, whoever needs it, while the free node has little room as well, and then there is room again. Writes are
// refused before anything breaks, reads go on, no copy is moved, and nobody has to help.
func TestDiskFullThenRoomAgain(t *testing.T) {
	for _, role := range []string{"primary", "follower"} {
		t.Run(role, func(t *testing.T) {
			disks, dir := ownDisks(t, 700)
			h, w, victim, others := atWork(t, setup{disk: dir, shards: 1}, 200)
			if role == "follower" {
				victim = others[0]
			}
			emptyFree := disks[h.free(t, "shard-1")].FillTo(t, 16<<20)
			empty := disks[victim].Fill(t)
			h.until("health tells of the full disk", rto, func(r health.Report) bool {
				return finds(r, health.DiskIsFull, victim) && finds(r, health.ShardReadOnly, "shard-1") && r.Status == health.Degraded
			})
			refused := 0
			for i := range 40 { // for some seconds, so that whatever else needs the disk needs it
				node := h.names[i%len(h.names)]
				began := time.Now()
				status, body := h.request(http.MethodPut, node, "full?timeout_ms=8000", `{"v":1}`)
				if strings.Contains(body, "READ_ONLY") && status == http.StatusServiceUnavailable && time.Since(began) < 3*time.Second {
					refused++
				} else {
					t.Errorf("write through %s after %s: %d %s", node, time.Since(began), status, body)
				}
				if status, body := h.request(http.MethodGet, node, "k1?timeout_ms=8000", ""); status != http.StatusOK && status != http.StatusNotFound {
					t.Errorf("read through %s: %d %s", node, status, body)
				}
				<-time.After(50 * time.Millisecond)
			}
			h.until("health says why no copy is made anew", heal, func(r health.Report) bool {
				return slices.ContainsFunc(r.Findings, func(f health.Finding) bool {
					return f.Code == health.ShardReadOnly && strings.Contains(f.Why, "no new copy is being built") && strings.Contains(f.Why, "[no-room]")
				}) && slices.Contains(copies(r, "shard-1"), victim)
			})
			if !h.alive(victim) {
				t.Fatalf("the process of %s has ended", victim)
			}
			empty()
			emptyFree()
			h.until("all is whole again", heal, healthy)
			w.more(t, 100, rto)
			w.end(t, 300)
		})
	}
}

// free is the node that has no copy of the shard.
func (h *hosts) free(t *testing.T, shard string) string {
	t.Helper()
	r, err := h.report()
	must(t, err)
	i := slices.IndexFunc(h.names, func(n string) bool { return !slices.Contains(copies(r, shard), n) })
	if i < 0 {
		t.Fatalf("every node has a copy of %s", shard)
	}
	return h.names[i]
}

// Row 30 where writes wait for the full disk and another node has room: the copy is made anew there, a primary's after it has handed
// over, and writes go on while the disk is still full.
func TestCopyOnAFullDiskIsMadeAnew(t *testing.T) {
	for _, role := range []string{"primary", "follower"} {
		t.Run(role, func(t *testing.T) {
			disks, dir := ownDisks(t, 700)
			h, w, victim, others := atWork(t, setup{disk: dir, shards: 1}, 200)
			if role == "follower" {
				victim = others[0]
			}
			empty := disks[victim].FillTo(t, 16<<20) // its part of the control plane goes on
			h.until("the copy is made anew on the free node, and writes are taken", heal, func(r health.Report) bool {
				s, _ := r.Shard("shard-1")
				return !slices.Contains(copies(r, "shard-1"), victim) && len(s.ISR) == 2 && s.Writable != nil && *s.Writable && finds(r, health.DiskIsFull, victim)
			})
			w.more(t, 200, rto)
			h.until("the room that the copy took is free", rto, func(health.Report) bool {
				_, err := os.Stat(filepath.Join(h.disk[victim], "shards", "shard-1"))
				return errors.Is(err, fs.ErrNotExist)
			})
			if !h.alive(victim) {
				t.Fatalf("the process of %s has ended", victim)
			}
			empty()
			h.until("all is whole", heal, healthy)
			w.more(t, 100, rto)
			w.end(t, 500)
		})
	}
}

// Row 30 where enough other copies have room: the full one is left out, and writes go on.
func TestFullDiskIsLeftOut(t *testing.T) {
	disks, dir := ownDisks(t, 700)
	h, w, victim, _ := atWork(t, setup{disk: dir, shards: 2, rf: 3}, 200)
	empty := disks[victim].Fill(t)
	h.until("others lead, and take writes", rto, func(r health.Report) bool {
		for _, s := range r.Shards {
			if string(s.Primary) == victim || s.Writable == nil || !*s.Writable || len(s.ISR) != 2 {
				return false
			}
		}
		return finds(r, health.DiskIsFull, victim)
	})
	w.more(t, 200, rto)
	if !h.alive(victim) {
		t.Fatalf("the process of %s has ended", victim)
	}
	empty()
	h.until("all is whole again", heal, healthy)
	w.more(t, 100, rto)
	w.end(t, 500)
}
