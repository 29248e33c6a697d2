package faults

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// The rows of the fault matrix that cut networks. Nodes live in namespaces of their own; the test's clients reach all of them,
// each client one, so that a node that is cut off is asked all the time and answers of itself alone.

// without are the names but one.
func without(names []string, one string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == one })
}

// leadsNone says whether the node leads no shard, by the control plane's word.
func leadsNone(node string) func(health.Report) bool {
	return func(r health.Report) bool {
		return len(r.Shards) > 0 && !slices.ContainsFunc(r.Shards, func(s health.ShardReport) bool { return s.Primary == "" || string(s.Primary) == node })
	}
}

// answersNothing watches a node for some time in which it must refuse whatever it is asked about these shards.
func answersNothing(t *testing.T, w *work, node string, of []themis.ShardID, since time.Time, long time.Duration) {
	t.Helper()
	<-time.After(long)
	ok, unknown, refused := w.since(node, of, since)
	for end := time.Now().Add(rto); refused == 0 && time.Now().Before(end); ok, unknown, refused = w.since(node, of, since) {
		<-time.After(100 * time.Millisecond) // a request waits for as long as it may
		for _, key := range w.keys(of) {     // one shard may have a single document, and clients hang in requests about others
			w.put(asking, node, operation{key: key, write: true}, time.Since(w.began))
		}
	}
	if ok > 0 || unknown > 0 {
		t.Errorf("%s answered %d requests about %v, and left the outcome of %d open, that it was asked when it could do nothing", node, ok, of, unknown)
	}
	if refused == 0 {
		t.Errorf("%s refused nothing about %v, so nothing was shown", node, of)
	}
	t.Logf("%s refused %d requests", node, refused)
}

// cut is a cluster of three, each node with all copies, under work. One that leads shards is the victim.
type cut struct {
	*hosts
	w      *work
	victim string
	led    []themis.ShardID
	others []string
}

func newCut(t *testing.T, s setup, arrange func(*hosts) string) cut {
	t.Helper()
	s.net, s.rf = true, or(s.rf, 3)
	h := newHosts(t, s)
	c := cut{hosts: h, victim: "node-1"}
	if arrange != nil {
		c.victim = arrange(h)
	}
	c.w = h.workNear(3*len(h.names), "k")
	c.w.more(t, 200, rto)
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	c.led = ledBy(r, c.victim)
	c.others = without(h.names, c.victim)
	return c
}

func findings(r health.Report) string {
	out := string(r.Status)
	for _, f := range r.Findings {
		out += " " + string(f.Code) + " " + f.Subject
	}
	return out
}

// healed ends the faults, waits until all is whole and says how long that took.
func (c cut) healed(t *testing.T, atLeast int64) (took time.Duration) {
	t.Helper()
	c.net.Heal()
	began := time.Now()
	said := ""
	c.until("all is whole again", heal, func(r health.Report) bool {
		if now := findings(r); now != said {
			t.Logf("after %s: %s", time.Since(began).Round(100*time.Millisecond), now)
			said = now
		}
		return healthy(r)
	})
	took = time.Since(began)
	t.Logf("whole %s after the links", took.Round(time.Millisecond))
	c.ask = nil
	c.w.more(t, 50, rto)
	c.w.end(t, atLeast)
	return took
}

// Row 12: a node that leads shards is cut off from all others, but not from its clients. Its lease in the control plane lasts
// well into its successors' reigns, so that only its followers' promises, which it can't renew, keep it from stale reads.
func TestPrimaryAlone(t *testing.T) {
	c := newCut(t, setup{args: []string{"--control-lease-ttl-ms", "12000"}}, nil)
	c.ask = c.others
	c.net.Cut([]string{c.victim}, c.others)
	c.until("the others lead every shard", rto, leadsNone(c.victim))
	since := time.Now()
	c.w.more(t, 100, rto)
	answersNothing(t, c.w, c.victim, c.led, since, 3*time.Second)
	c.healed(t, 350)
}

// Row 13: a primary is cut off from its followers, but neither from the control plane nor from clients. It can't confirm
// anything, nor may it drop the last follower that counts: so it refuses, until the link is back.
func TestPrimaryCutFromItsFollowers(t *testing.T) {
	c := newCut(t, setup{names: []string{"node-1", "node-2", "node-3", "witness"}, roles: map[string]string{"witness": "controller"}, control: 1}, nil)
	c.net.Cut([]string{c.victim}, without(c.others, "witness"))
	<-time.After(4 * time.Second) // longer than read leases, and than a follower may be silent
	since := time.Now()
	c.w.more(t, 20, rto) // the shards of others go on
	answersNothing(t, c.w, c.victim, c.led, since, 3*time.Second)
	c.until("it still leads, and the in-sync set is no smaller than 1 + k: the control plane sees all nodes", rto, func(r health.Report) bool {
		return !slices.ContainsFunc(c.led, func(id themis.ShardID) bool {
			s, _ := r.Shard(id)
			return string(s.Primary) != c.victim || len(s.ISR) < 2
		})
	})
	c.healed(t, 270)
}

// Row 14: a primary is cut off from the control plane alone; followers, clients and probes reach it.
func TestPrimaryCutFromTheControlPlane(t *testing.T) {
	c := newCut(t, setup{args: shortLease}, nil)
	c.cutFromEtcd(t)
}

// Row 14, at its worst: that node is the controller, and leads etcd until then.
func TestControllerCutFromTheControlPlane(t *testing.T) {
	c := newCut(t, setup{args: shortLease}, func(h *hosts) string { return h.allOnOne(t) })
	c.cutFromEtcd(t)
}

// shortLease is the shortest that is allowed but one second.
var shortLease = []string{"--control-lease-ttl-ms", "3000"}

func (c cut) cutFromEtcd(t *testing.T) {
	t.Helper()
	began := time.Now()
	c.net.Between([]string{c.victim}, c.others, Link{Cut: true, Ports: []uint16{2380}}) // what etcd's members say to each other
	<-time.After(5 * time.Second)                                                       // its lease, and as long as etcd's old leader may renew it
	since := time.Now()
	c.ask = c.others
	c.until("the others lead every shard", rto, leadsNone(c.victim))
	t.Logf("the others lead after %s", time.Since(began).Round(time.Millisecond))
	answersNothing(t, c.w, c.victim, c.led, since, 2*time.Second)
	c.w.more(t, 100, rto)
	c.healed(t, 350)
}

// A follower is cut off for a while: writes go on without it, and afterwards it gets what it lacks from the log.
func TestFollowerCutOffCatchesUp(t *testing.T) {
	c := newCut(t, setup{shards: 1}, follower)
	c.away(t, func() { c.w.more(t, 300, rto) })
	if n := c.said("msg=installed", c.victim); n > 0 {
		t.Errorf("%s was rebuilt, though the log holds all it lacked", c.victim)
	}
}

// A follower is cut off for so long that the log no longer holds what it lacks: it is rebuilt from the primary's store. Over a link
// that takes some time for that, health says how far it is and how long it will take.
func TestFollowerCutOffForLongIsRebuilt(t *testing.T) {
	c := newCut(t, setup{shards: 1, args: []string{"--wal-segment-size-mb", "1", "--wal-keep-segments", "2", "--store-memtable-mb", "4"}}, follower)
	c.away(t, func() {
		primary := c.others[0]
		first := filepath.Join(c.disk[primary], "shards", "shard-1", "wal", "00000000000000000001")
		random := make([]byte, 128<<10) // what is stored is compressed
		_, _ = rand.Read(random)        // never fails
		body := fmt.Sprintf(`{"filler":%q}`, hex.EncodeToString(random))
		for i := 0; ; i++ {
			if _, err := os.Stat(first); errors.Is(err, fs.ErrNotExist) {
				break
			}
			if status, answer := c.request(http.MethodPut, primary, fmt.Sprint("filler", i%80), body); status != http.StatusOK {
				t.Fatalf("filler: %d %s", status, answer)
			}
			if i > 400 {
				<-time.After(100 * time.Millisecond)
			}
		}
		c.net.Heal()
		c.net.Set(primary, c.victim, Link{Rate: 3 << 20})
		c.rebuildIsTold(t)
	})
	if n := c.said("msg=installed", c.victim); n == 0 {
		t.Errorf("%s was not rebuilt, though the log no longer holds what it lacked", c.victim)
	}
}

// rebuildIsTold waits for two reports of a rebuild, the later one of more bytes; what it says of the time left is held
// against the pace between both.
func (c cut) rebuildIsTold(t *testing.T) {
	t.Helper()
	var first, now health.Rebuild
	var at time.Time
	took := time.Duration(0)
	c.until("health says how far the rebuild is", rto, func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		i := slices.IndexFunc(s.Replicas, func(x health.ReplicaReport) bool { return string(x.Node) == c.victim && x.Rebuild != nil })
		if i < 0 || s.Replicas[i].Rebuild.ETAMs == nil {
			return false
		}
		if now = *s.Replicas[i].Rebuild; at.IsZero() {
			first, at = now, time.Now()
		}
		took = time.Since(at)
		return strings.Contains(findings(r), "REBUILD_RUNNING shard-1/"+c.victim) && now.Bytes > first.Bytes && took > 3*time.Second
	})
	if first.Percent == nil || now.Percent == nil || *first.Percent <= 0 || *now.Percent <= *first.Percent || *now.Percent > 100 || first.Total == nil || *first.Total < 2<<20 {
		t.Fatalf("first %+v, later %+v", first, now)
	}
	left := time.Duration(float64(took) * float64(*first.Total-now.Bytes) / float64(now.Bytes-first.Bytes))
	said := time.Duration(*now.ETAMs) * time.Millisecond
	t.Logf("%.1f %% of %d bytes, %.1f %% after %s, at which pace %s are left; it says %s", *first.Percent, *first.Total, *now.Percent, took.Round(time.Millisecond), left.Round(time.Millisecond), said)
	if said < left/4 || said > 4*left {
		t.Errorf("it says that %s are left; at the pace between both reports it is %s", said, left)
	}
}

// follower chooses a node that follows shard-1.
func follower(h *hosts) string {
	r, err := h.report()
	if err != nil {
		h.t.Fatal(err)
	}
	_, others := leads(r, "shard-1")
	return others[0]
}

// away cuts the victim off while something is done, and waits until the others go on without it and then with it.
func (c cut) away(t *testing.T, do func()) {
	t.Helper()
	c.net.Cut([]string{c.victim}, c.others)
	c.ask = c.others
	c.until("it is out of the in-sync set", rto, func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		return len(s.ISR) == 2 && !slices.Contains(s.ISR, themis.NodeID(c.victim))
	})
	do()
	c.healed(t, 300)
}
