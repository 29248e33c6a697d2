package faults

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// injection is strace at work on a running node.
type injection struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  string
	done bool
}

// inject makes system calls of the node on one file fail or wait, as strace's inject says it; without a file, on all files.
func (h *hosts) inject(t *testing.T, node, file, what string) *injection {
	t.Helper()
	NeedRoot(t, "strace")
	call, _, _ := strings.Cut(what, ":")
	i := &injection{t: t, out: filepath.Join(t.TempDir(), "strace")}
	h.mu.Lock()
	pid := h.proc[node].cmd.Process.Pid
	h.mu.Unlock()
	args := []string{"-f", "-p", fmt.Sprint(pid), "-o", i.out, "-e", "trace=" + call, "-e", "inject=" + what}
	if file != "" {
		args = append(args, "-P", file)
	}
	i.cmd = exec.Command("strace", args...) //nolint:gosec,noctx // ended below
	var said bytes.Buffer
	ready, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	i.cmd.Stderr = w
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() { i.end(); _ = ready.Close() })
	for b := make([]byte, 4096); !strings.Contains(said.String(), " attached"); {
		n, err := ready.Read(b)
		said.Write(b[:n])
		if err != nil {
			t.Fatalf("strace does not attach to %s: %s", node, said.String())
		}
	}
	return i
}

// end lets the system calls be.
func (i *injection) end() {
	if !i.done {
		i.done = true
		_ = i.cmd.Process.Signal(syscall.SIGINT)
		_ = i.cmd.Wait()
	}
}

// injected is how many calls were made to fail so far.
func (i *injection) injected() int {
	b, err := os.ReadFile(i.out)
	if err != nil {
		i.t.Fatal(err)
	}
	return strings.Count(string(b), "(INJECTED)")
}

// segment is the file that the node's log of the shard is being written to.
func (h *hosts) segment(t *testing.T, node, shard string) string {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(h.disk[node], "shards", shard, "wal", "0*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	slices.Sort(segments)
	return segments[len(segments)-1]
}

// tells is whether the node logged that.
func (h *hosts) tells(t *testing.T, node string, parts ...string) bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, node+".log"))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(l, p) }) {
			return true
		}
	}
	return false
}

// copies are the nodes that hold a copy of the shard.
func copies(r health.Report, shard string) (out []string) {
	s, _ := r.Shard(themis.ShardID(shard))
	for _, rep := range s.Replicas {
		out = append(out, string(rep.Node))
	}
	return out
}

// Row 27: one sync of a log fails. That copy is out for good, the sync is not tried again, its shard goes on without it, and a new
// copy is made on the free node.
func TestFailedSyncIsFinal(t *testing.T) {
	for _, role := range []string{"primary", "follower"} {
		t.Run(role, func(t *testing.T) {
			h, w, victim, others := atWork(t, setup{shards: 1}, 200)
			if role == "follower" {
				victim = others[0]
			}
			i := h.inject(t, victim, h.segment(t, victim, "shard-1"), "fdatasync,fsync:error=EIO")
			h.until("the copy is made anew on the free node", heal, func(r health.Report) bool {
				return healthy(r) && !slices.Contains(copies(r, "shard-1"), victim)
			})
			if n := i.injected(); n != 1 {
				t.Errorf("the log was synced %d times, want one sync that failed and none after it", n)
			}
			i.end()
			if !h.tells(t, victim, "action=replica_fault", "shard-1", "input/output error") {
				t.Errorf("%s did not say why its copy is out", victim)
			}
			if !h.alive(victim) {
				t.Errorf("the process of %s has ended", victim)
			}
			w.more(t, 100, rto)
			w.end(t, 300)
		})
	}
}

// Row 27 without a free node: the others go on, health says which copy is out; its next process does not trust what the disk shows,
// and it is built anew.
func TestCopyOnAFailedDiskIsBlankAfterARestart(t *testing.T) {
	h, w, _, others := atWork(t, setup{shards: 1, rf: 3}, 200)
	victim := others[0]
	i := h.inject(t, victim, h.segment(t, victim, "shard-1"), "fdatasync,fsync:error=EIO")
	h.until("health tells of the copy, which is out of the in-sync set", rto, func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		return finds(r, health.ReplicaBroken, "shard-1/"+victim) && len(s.ISR) == 2
	})
	i.end()
	w.more(t, 100, rto)
	h.kill(victim)
	h.start(victim)
	h.until("all is whole again", heal, healthy)
	if !h.tells(t, victim, "msg=installed", "shard=shard-1") {
		t.Errorf("%s counts again with the log that it could not sync", victim)
	}
	w.more(t, 100, rto)
	w.end(t, 400)
}

// Row 31: a write of a log finds no room although the disk has some. What was durable is not in doubt: the copy is opened again by
// itself, with what it had.
func TestCopyThatFoundNoRoomIsOpenedAgain(t *testing.T) {
	h, w, primary, others := atWork(t, setup{shards: 1, rf: 3}, 200)
	for n, victim := range []string{primary, others[0]} {
		i := h.inject(t, victim, h.segment(t, victim, "shard-1"), "pwrite64:error=ENOSPC")
		for deadline := time.Now().Add(rto); i.injected() == 0; {
			if time.Now().After(deadline) {
				t.Fatal("nothing was written")
			}
			<-time.After(20 * time.Millisecond)
		}
		i.end()
		w.more(t, 50, rto)
		h.until(fmt.Sprintf("%d: all is whole again, the copy of %s with it", n, victim), heal, func(r health.Report) bool {
			return healthy(r) && h.tells(t, victim, "copy is opened again", "no space left")
		})
		if h.tells(t, victim, "msg=installed", "shard=shard-1") {
			t.Errorf("the copy of %s was built anew: it had all it ever acknowledged", victim)
		}
	}
	w.more(t, 100, rto)
	w.end(t, 400)
}

// Row 32: the file system of a node goes down under it, so that every call on it fails. Its copies are out and are made anew
// elsewhere; its process, which holds no part of the control plane, goes on and says so.
func TestFileSystemGoesDown(t *testing.T) {
	d := NewDisk(t, 700)
	own := t.TempDir()
	h := newHosts(t, setup{names: []string{"node-1", "node-2", "node-3", "node-4"}, shards: 4, disk: func(n string) string {
		if n == "node-4" {
			return filepath.Join(d.Dir, n)
		}
		return filepath.Join(own, n)
	}})
	w := h.work(6)
	w.more(t, 300, rto)
	d.Cut(t)
	h.until("its copies are made anew elsewhere", heal, func(r health.Report) bool {
		for _, s := range r.Shards {
			if slices.Contains(copies(r, string(s.ID)), "node-4") {
				return false
			}
		}
		return healthy(r)
	})
	if !h.tells(t, "node-4", "action=replica_fault", "input/output error") || !h.alive("node-4") {
		t.Errorf("node-4 did not say why its copies are out, or has ended: alive is %v", h.alive("node-4"))
	}
	w.more(t, 100, rto)
	h.kill("node-4")
	d.Remount(t)
	h.start("node-4")
	h.until("all is whole again", heal, healthy)
	w.end(t, 400)
}

// Row 27 where the copy was the only follower: it leaves the in-sync set, though that is below the floor, since it has said itself
// that it is lost. Reads go on, writes are refused in words, and none is left hanging.
func TestFailedSyncOfTheOnlyFollower(t *testing.T) {
	h, w, primary, others := atWork(t, setup{names: []string{"node-1", "node-2"}, shards: 1}, 100)
	victim := others[0]
	i := h.inject(t, victim, h.segment(t, victim, "shard-1"), "fdatasync,fsync:error=EIO")
	h.until("the follower is out", rto, func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		return len(s.ISR) == 1 && finds(r, health.ReplicaBroken, "shard-1/"+victim)
	})
	i.end()
	if status, body := h.request("PUT", primary, "k1?timeout_ms=500", `{"v":1}`); status != 503 || !strings.Contains(body, "NOT_ENOUGH_REPLICAS") {
		t.Errorf("a write: %d %s", status, body)
	}
	if status, body := h.request("GET", victim, "k1?timeout_ms=3000", ""); status != 200 && status != 404 {
		t.Errorf("a read: %d %s", status, body)
	}
	h.kill(victim)
	h.start(victim)
	h.until("all is whole again", heal, healthy)
	w.more(t, 50, rto)
	w.end(t, 150)
}
