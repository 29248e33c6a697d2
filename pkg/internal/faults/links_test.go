package faults

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// The rows of the fault matrix that are about half broken links and paused processes. THEMIS_LONG=1 runs them.

// epochs are those of the shards.
func (h *hosts) epochs(t *testing.T) map[themis.ShardID]themis.Epoch {
	t.Helper()
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	out := map[themis.ShardID]themis.Epoch{}
	for _, s := range r.Shards {
		out[s.ID] = s.Epoch
	}
	return out
}

// reigned checks that no shard had more than so many elections since.
func (h *hosts) reigned(t *testing.T, before map[themis.ShardID]themis.Epoch, most themis.Epoch) {
	t.Helper()
	for id, now := range h.epochs(t) {
		if now > before[id]+most {
			t.Errorf("%s went from epoch %d to %d, at most %d more were due", id, before[id], now, most)
		}
	}
}

// Row 15: one way only. A node that leads shards and is the controller hears nobody, or is heard by nobody.
func TestOneWay(t *testing.T) {
	Long(t)
	for name, set := range map[string]func(c cut, other string){
		"hears nobody":       func(c cut, other string) { c.net.Set(other, c.victim, Link{Cut: true}) },
		"is heard by nobody": func(c cut, other string) { c.net.Set(c.victim, other, Link{Cut: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCut(t, setup{}, func(h *hosts) string { return h.allOnOne(t) })
			before := c.epochs(t)
			for _, other := range c.others {
				set(c, other)
			}
			c.ask = c.others
			c.until("the others lead every shard", rto, leadsNone(c.victim))
			terms := c.said("action=take_controller", c.names...)
			c.w.more(t, 100, rto)
			answersNothing(t, c.w, c.victim, c.led, time.Now(), 8*time.Second)
			c.reigned(t, before, 1)
			if n := c.said("action=take_controller", c.names...) - terms; n > 0 {
				t.Errorf("the controller changed %d times after it had settled", n)
			}
			c.healed(t, 350)
		})
	}
}

// Row 16, a bridge: two nodes can't reach each other, the third reaches both, and leads etcd. The controller is one of the two.
func TestBridge(t *testing.T) {
	Long(t)
	c := newCut(t, setup{}, func(h *hosts) string {
		one := h.allOnOne(t)
		h.leadEtcd(t, "node-3")
		return one
	})
	before := c.epochs(t)
	terms := c.said("action=take_controller", c.names...)
	c.net.Cut([]string{"node-1"}, []string{"node-2"})
	c.w.more(t, 100, rto)
	<-time.After(15 * time.Second)
	c.w.more(t, 50, rto)
	c.ask = []string{"node-3"}
	c.reigned(t, before, 1)
	if n := c.said("action=take_controller", c.names...) - terms; n > 0 {
		t.Errorf("the controller changed %d times, though the third node hears it", n)
	}
	c.healed(t, 350)
}

// Row 17: the links of a node that leads shards are there for a second, and away for a second.
func TestFlappingLinks(t *testing.T) {
	Long(t)
	c := newCut(t, setup{}, nil)
	before := c.epochs(t)
	for range 10 {
		c.net.Cut([]string{c.victim}, c.others)
		<-time.After(time.Second)
		c.net.Heal()
		<-time.After(time.Second)
	}
	c.reigned(t, before, 4)
	c.healed(t, 250)
}

// Row 19: every link takes 50 ms and up to 20 more, and loses two of a hundred packets. Nobody is taken for dead.
func TestPoorLinks(t *testing.T) {
	Long(t)
	c := newCut(t, setup{}, nil)
	before := c.epochs(t)
	c.net.Between(c.names, c.names, Link{Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.02})
	<-time.After(15 * time.Second)
	c.w.more(t, 100, 2*rto)
	c.reigned(t, before, 0)
	if n := c.said("action=declare_failed", c.names...); n > 0 {
		t.Errorf("%d nodes were declared FAILED", n)
	}
	c.healed(t, 350)
}

// Row 20: the link from a primary to one follower carries 256 kbit a second. The follower leaves the in-sync set, writes go on
// without it, and what waits for it is bounded.
func TestSlowLinkToAFollower(t *testing.T) {
	Long(t)
	var primary string
	c := newCut(t, setup{shards: 1}, func(h *hosts) string { // one that only follows: the way to the controller is not what is slow
		r, err := h.report()
		must(t, err)
		var others []string
		primary, others = leads(r, "shard-1")
		h.leadEtcd(t, primary)
		return without(others, string(r.Control.Controller))[0]
	})
	c.net.Set(primary, c.victim, Link{Rate: 32 << 10})
	body := fmt.Sprintf(`{"filler":%q}`, strings.Repeat("x", 64<<10))
	fill := func(n int) {
		for i := range n {
			if status, answer := c.request(http.MethodPut, primary, fmt.Sprint("filler", i%20), body); status != http.StatusOK {
				t.Fatalf("filler: %d %s", status, answer)
			}
		}
	}
	fill(20)
	c.until("the follower is out of the in-sync set", rto, func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		return !slices.Contains(s.ISR, themis.NodeID(c.victim))
	})
	before := c.resident(t, primary)
	fill(1600) // 100 MiB: several times what may be held for one follower
	if grown := c.resident(t, primary) - before; grown > 256<<20 {
		t.Errorf("the primary grew by %d MiB while 100 MiB waited for a slow follower", grown>>20)
	} else {
		t.Logf("the primary grew by %d MiB", grown>>20)
	}
	c.w.more(t, 100, rto)
	c.healed(t, 300)
}

// resident is the memory of a node's process, in bytes.
func (h *hosts) resident(t *testing.T, node string) int64 {
	t.Helper()
	h.mu.Lock()
	pid := h.proc[node].cmd.Process.Pid
	h.mu.Unlock()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Row 22: the node of the controller, of etcd's leader and of primaries is paused for longer than its lease, and so is a follower.
func TestPauseControllerAndEtcdLeader(t *testing.T) {
	Long(t)
	h := newHosts(t, setup{rf: 3})
	victim := h.allOnOne(t)
	w := h.work(6)
	w.more(t, 200, rto)
	h.pause(victim)
	w.more(t, 100, rto+10*time.Second)
	h.until("the others lead every shard", rto, leadsNone(victim))
	<-time.After(4 * time.Second)
	h.resume(victim)
	h.until("all is whole again", heal, healthy)
	w.more(t, 100, rto)
	h.pause(victim) // now it only follows
	w.more(t, 100, rto+10*time.Second)
	h.resume(victim)
	h.until("all is whole again", heal, healthy)
	w.more(t, 50, rto)
	w.end(t, 500)
}

// A node that leads shards is cut off for long: it is back soon after its links are, not only when TCP repeats what was lost, which
// it does after a time that doubles.
func TestCutForLong(t *testing.T) {
	Long(t)
	c := newCut(t, setup{}, nil)
	c.ask = c.others
	c.net.Cut([]string{c.victim}, c.others)
	c.until("the others lead every shard", rto, leadsNone(c.victim))
	<-time.After(75 * time.Second)
	if took := c.healed(t, 350); took > 15*time.Second {
		t.Errorf("whole only %s after the links, which were away for 75 s", took.Round(time.Second))
	}
}
