package faults

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/themisdb/themis/pkg/health"
)

// Row 8: loss of power of all nodes at once. What was not synced is gone.
func TestPowerLossOfAll(t *testing.T) {
	d := NewDisk(t, 2048)
	h := newHosts(t, setup{disk: func(n string) string { return filepath.Join(d.Dir, n) }})
	w := h.work(6)
	w.more(t, 300, rto)
	d.Cut(t)
	h.kill(h.names...)
	d.Remount(t)
	for _, n := range h.names {
		h.start(n)
	}
	h.until("all is whole again", heal, healthy)
	w.more(t, 100, rto)
	w.end(t, 400)
}

// Row 7: loss of power of one node that leads shards.
func TestPowerLossOfPrimary(t *testing.T) {
	d := NewDisk(t, 1024)
	own := t.TempDir()
	h := newHosts(t, setup{disk: func(n string) string {
		if n == "node-2" {
			return filepath.Join(d.Dir, n)
		}
		return filepath.Join(own, n)
	}})
	w := h.work(6)
	w.more(t, 300, rto)
	d.Cut(t)
	h.kill("node-2")
	w.more(t, 100, rto)
	d.Remount(t)
	h.start("node-2")
	h.until("all is whole again", heal, healthy)
	w.end(t, 400)
}

// Row 9, the control: with fsync that only pretends, the same loss of power must be seen. Otherwise the tests above are blind.
// A cluster that does not become whole counts as seen; which write is missing is asked only where it does.
func TestPowerLossWithoutFsyncIsSeen(t *testing.T) {
	NeedRoot(t)
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("strace is needed to fake fsync: %v", err)
	}
	d := NewDisk(t, 2048)
	h := newHosts(t, setup{
		disk: func(n string) string { return filepath.Join(d.Dir, n) },
		wrap: []string{"strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0"},
	})
	w := h.work(6)
	w.more(t, 300, rto)
	d.Cut(t)
	w.halt()
	h.kill(h.names...)
	d.Remount(t)
	h.wrap = nil // from here on fsync works: whatever is wrong now was lost before
	for _, n := range h.names {
		if !h.comesUp(n) {
			t.Logf("%s does not come up: seen", n)
			return
		}
	}
	if !h.within(heal, func(r health.Report) bool { return r.Status == health.Healthy }) {
		t.Log("the cluster does not become whole again: seen")
		return
	}
	if w.judge(t) == porcupine.Ok {
		t.Error("fsync did nothing, power was lost, and nobody noticed: these tests can't see a lost write")
	}
}
