package faults

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
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

// backUp copies the disk of a node that does not run.
func (h *hosts) backUp(t *testing.T, name string) {
	t.Helper()
	run(t, "cp", "-a", h.disk[name], h.disk[name]+".backup")
}

// putBack puts that copy in the place of the disk.
func (h *hosts) putBack(t *testing.T, name string) {
	t.Helper()
	must(t, os.RemoveAll(h.disk[name]))
	run(t, "cp", "-a", h.disk[name]+".backup", h.disk[name])
}

// refusesItsDisk starts a node with an older state of its disk.
func (h *hosts) refusesItsDisk(t *testing.T, name string) {
	t.Helper()
	_ = h.comesUp(name) // for a moment, or not even that
	if !h.ends(name, rto) || !h.tells(t, name, "older state of itself") || !h.tells(t, name, "next: ", "node join ADDR --replace") {
		t.Errorf("%s, with an older state of its disk, goes on, or does not say why it doesn't", name)
	}
	h.kill(name)
}

// Row 37: a backup of a node's disk is put back after more was written, while the primary of one of its shards is away, so that it
// would be the only member of the in-sync set. It does not start, says why, and nothing that was acknowledged is lost.
func TestOldBackupIsRefused(t *testing.T) {
	const victim = "node-4" // holds no part of the control plane
	h := newHosts(t, setup{names: []string{"node-1", "node-2", "node-3", victim}, shards: 4})
	w := h.work(4)
	w.more(t, 150, rto)
	h.kill(victim)
	h.backUp(t, victim)
	h.start(victim)
	h.until("it follows again", heal, healthy)
	w.more(t, 150, rto)
	h.refusedAfterBoth(t, w, victim)
}

// refusedAfterBoth ends the victim and the primary of a shard that it follows, puts the victim's backup back, and sees it refused and
// nothing lost.
func (h *hosts) refusedAfterBoth(t *testing.T, w *work, victim string) {
	t.Helper()
	r := h.until("all is whole", heal, healthy)
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
	h.kill(victim, primary)
	h.putBack(t, victim)
	h.refusesItsDisk(t, victim)
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

// Row 37 where the backup is an image of the running disk that is only seconds old when its node ends: what was written since shows in
// the disk's age all the same.
func TestImageOfTheLastSeconds(t *testing.T) {
	const victim = "node-4" // holds no part of the control plane
	h := newHosts(t, setup{names: []string{"node-1", "node-2", "node-3", victim}, shards: 4})
	w := h.work(4)
	w.more(t, 150, rto)
	was := h.age(t, victim).Age
	for deadline := time.Now().Add(rto); h.age(t, victim).Age == was; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the disk grows no older")
		}
	}
	h.pause(victim)
	h.backUp(t, victim)
	h.resume(victim)
	for began := time.Now(); time.Since(began) < 4*time.Second; {
		w.more(t, 20, rto)
	}
	h.refusedAfterBoth(t, w, victim)
}

// Row 37 on a member of the control plane: its etcd, which has forgotten what it had confirmed, does not even start. The others go on.
func TestOldBackupOfAControlNode(t *testing.T) {
	h, w, victim := oldControlNode(t)
	h.kill(victim)
	h.putBack(t, victim)
	before := h.votes(t, victim)
	h.refusesItsDisk(t, victim)
	h.stayedOut(t, victim, before)
	w.more(t, 50, rto)
	w.end(t, 150)
}

// The same where all nodes start at once, so that nobody serves the records of ages yet: the others have noted them.
func TestOldBackupOfAControlNodeWhereAllStart(t *testing.T) {
	Long(t)
	h, w, victim := oldControlNode(t)
	h.noted(t, victim, h.age(t, victim).Age, otherNames(h, victim)...)
	h.kill(h.names...)
	h.putBack(t, victim)
	before := h.votes(t, victim)
	for _, n := range otherNames(h, victim) {
		h.start(n)
	}
	h.refusesItsDisk(t, victim)
	h.stayedOut(t, victim, before)
	w.more(t, 50, heal)
	w.end(t, 150)
}

// oldControlNode is a cluster of three at work, of which the last has a backup beside its disk.
func oldControlNode(t *testing.T) (h *hosts, w *work, victim string) {
	t.Helper()
	h = newHosts(t, setup{shards: 1})
	w, victim = h.work(4), h.names[2]
	w.more(t, 100, rto)
	h.noted(t, h.names[0], 1, victim) // so it knows whom to ask
	h.kill(victim)
	h.backUp(t, victim)
	h.start(victim)
	h.until("it follows again", heal, healthy)
	return h, w, victim
}

// stayedOut is that the node's member of the control plane has not started.
func (h *hosts) stayedOut(t *testing.T, name, before string) {
	t.Helper()
	if now := h.votes(t, name); now != before {
		t.Errorf("the member of the control plane on %s has started: it had\n%sand has\n%s", name, before, now)
	}
}

// ages is what a test reads of AGE.
type ages struct {
	Age  uint64
	Seen []struct {
		Node string
		Age  uint64
	}
}

func (h *hosts) age(t *testing.T, node string) (a ages) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.disk[node], "AGE"))
	must(t, err)
	must(t, json.Unmarshal(b, &a))
	return a
}

// noted waits until others have noted that the node's disk is at least that old.
func (h *hosts) noted(t *testing.T, name string, age uint64, by ...string) {
	t.Helper()
	for _, n := range by {
		for deadline := time.Now().Add(rto); ; <-time.After(50 * time.Millisecond) {
			knows := false
			for _, s := range h.age(t, n).Seen {
				knows = knows || s.Node == name && s.Age >= age
			}
			if knows {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s has not noted that the disk of %s is at age %d", n, name, age)
			}
		}
	}
}

// votes is what the node's member of the control plane has on disk, its log above all: it grows at every start.
func (h *hosts) votes(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "cd '"+filepath.Join(h.disk[name], "control")+"' && find . -type f | sort | xargs sha256sum").CombinedOutput() //nolint:gosec,noctx // our own directory
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
