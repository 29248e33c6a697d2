package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/anishathalye/porcupine"
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
	for value, write := range w.acknowledged() {
		if n := len(h.logged(value)); n < 2 {
			t.Errorf("the %s is on %d of 2 disks", write, n)
		}
	}
	for _, n := range h.names {
		h.start(n)
	}
	h.until("all is whole again", heal, healthy)
	w.more(t, 100, rto)
	w.end(t, 400)
}

// logged are the nodes in whose logs, as they lie on disk, the value stands.
func (h *hosts) logged(value int) (nodes []string) {
	h.t.Helper()
	for _, n := range h.names {
		if h.onDisk == nil {
			h.onDisk = map[string]map[int]bool{}
		}
		if h.onDisk[n] == nil {
			h.onDisk[n] = map[int]bool{}
			segments, err := filepath.Glob(filepath.Join(h.disk[n], "shards", "*", "wal", "0*"))
			if err != nil {
				h.t.Fatal(err)
			}
			for _, name := range segments {
				b, err := os.ReadFile(name)
				if err != nil {
					h.t.Fatal(err)
				}
				for _, m := range written.FindAllSubmatch(b, -1) {
					v, _ := strconv.Atoi(string(m[1])) // digits
					h.onDisk[n][v] = true
				}
			}
		}
		if h.onDisk[n][value] {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

var written = regexp.MustCompile(`\{"v":(\d+)\}`)

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
// The same search that finds every acknowledged write above must name some that are on no disk at all; and the cluster, which knows
// by its own marks that something is missing, must not serve as if nothing were.
func TestPowerLossWithoutFsyncIsSeen(t *testing.T) {
	NeedRoot(t, "strace") // it fakes fsync
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
	var gone []string
	for value, write := range w.acknowledged() {
		if len(h.logged(value)) == 0 {
			gone = append(gone, write)
		}
	}
	if len(gone) == 0 {
		t.Fatal("fsync did nothing, power was lost, and every acknowledged write is on a disk: these tests can't see a lost one")
	}
	t.Logf("%d of %d acknowledged writes are on no disk, among them the %s", len(gone), len(w.acknowledged()), gone[0])
	h.wrap = nil // from here on fsync works: whatever is wrong now was lost before
	for _, n := range h.names {
		if !h.comesUp(n) {
			t.Logf("%s does not come up", n)
			return
		}
	}
	if !h.within(rto/2, healthy) {
		t.Log("the cluster does not become whole again")
		return
	}
	if w.judge(t) == porcupine.Ok {
		t.Errorf("%d acknowledged writes are gone, and the history of the cluster that serves again looks well", len(gone))
	}
}
