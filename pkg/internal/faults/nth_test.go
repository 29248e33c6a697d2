package faults

import (
	"fmt"
	"os"
	"testing"

	"github.com/themisdb/themis/pkg/health"
)

// Row 10: a node is killed in the middle of some thread's N-th sync, again and again. Each time it opens cleanly, with nothing
// quarantined and nothing lost. THEMIS_LONG=1 goes through N = 1…40.
func TestKillAtTheNthSync(t *testing.T) {
	NeedRoot(t, "strace")
	ns := []int{1, 4, 15}
	if os.Getenv("THEMIS_LONG") != "" {
		ns = nil
		for n := 1; n <= 40; n++ {
			ns = append(ns, n)
		}
	}
	h := newHosts(t, setup{shards: 2})
	w := h.work(4)
	w.more(t, 100, rto)
	const victim = "node-2"
	for _, n := range ns {
		h.kill(victim)
		h.wrap = []string{"strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", fmt.Sprintf("inject=fsync,fdatasync:signal=SIGKILL:when=%d", n)}
		if h.comesUp(victim) && !h.ends(victim, rto) {
			t.Errorf("%d: it was not killed", n)
		}
		h.kill(victim)
		h.wrap = nil
		h.start(victim)
		h.until(fmt.Sprintf("%d: all is whole again", n), heal, healthy)
		w.more(t, 20, rto)
	}
	r, err := h.report()
	must(t, err)
	if finds(r, health.ReplicaBlank, "shard-1/"+victim) || h.tells(t, victim, "action=quarantine") {
		t.Error("a kill was taken for damage")
	}
	w.end(t, 150)
}
