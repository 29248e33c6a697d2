package health

import (
	"cmp"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

func (r Report) why(code Code, subject string) string {
	for _, f := range r.Findings {
		if f.Code == code && f.Subject == subject {
			return f.Why
		}
	}
	return ""
}

func same(a, b *bool) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

// TestFrozenPrimary: what a primary said last does not stand for the present once it gives no answer.
func TestFrozenPrimary(t *testing.T) {
	for _, c := range []struct {
		silent time.Duration
		err    string
		serves *bool
		state  ShardState
		why    string
	}{
		{1400 * time.Millisecond, "deadline exceeded", nil, ShardDegraded, "whether shard-1 serves is not known: its primary node-1 was not heard for 1.4 s"},
		{QuietFor - time.Millisecond, "deadline exceeded", ptr(true), ShardOK, ""},
		{1400 * time.Millisecond, "", ptr(true), ShardOK, ""}, // nobody asked it since
	} {
		w := healthy()
		o := w.states["node-1"]
		o.At, o.Err = ago(c.silent), c.err
		w.states["node-1"] = o
		r := w.build()
		s, _ := r.Shard("shard-1")
		if !same(s.Readable, c.serves) || !same(s.Writable, c.serves) || (s.Queued == nil) != (c.serves == nil) || s.State != c.state || r.why(StateUnknown, "shard-1") != c.why {
			t.Errorf("silent for %s, %q: %s, readable %v, writable %v, %q", c.silent, c.err, s.State, s.Readable != nil, s.Writable != nil, r.why(StateUnknown, "shard-1"))
		}
		if other, _ := r.Shard("shard-2"); other.State != ShardOK {
			t.Errorf("silent for %s: shard-2 is %s", c.silent, other.State)
		}
	}
}

// TestBegunWritesWaitToo: writes that are in the log and wait for a follower are counted before the shard refuses new ones, and after.
func TestBegunWritesWaitToo(t *testing.T) {
	w := healthy()
	w.copyOn("node-1", "shard-1").Waiting = 64
	if s, _ := w.build().Shard("shard-1"); s.Queued == nil || *s.Queued != 64 {
		t.Errorf("queued %s", word(s.Queued))
	}
	w.edit("shard-1", func(s *cluster.Shard) { s.ISR = s.ISR[:1] })
	w.copyOn("node-1", "shard-1").Stalled = &Stall{Since: ago(436 * time.Millisecond), Queued: 3}
	r := w.build()
	if s, _ := r.Shard("shard-1"); *s.Queued != 64 {
		t.Errorf("queued %s", word(s.Queued))
	}
	if got := r.why(ShardReadOnly, "shard-1"); !strings.Contains(got, "64 writes wait; no new copy is being built yet") {
		t.Error(got)
	}
}

// TestNewCopyBeforeItBegins: after a failover at two copies it is said which copy is missing, and how far the new one is.
func TestNewCopyBeforeItBegins(t *testing.T) {
	for _, c := range []struct {
		what string
		f    Follower
		want string
	}{
		{"no stream yet", Follower{Error: "connecting"}, "a new copy on node-3 waits to begin: about 1000 bytes are to come, and how long it takes is known once they do; connecting"},
		{"heard, and blank", Follower{Connected: true, State: cluster.Blank, Error: "not yet filled", Seq: ptr(themis.Seq(0)), AckAgeMs: ptr(int64(1)), LagEntries: ptr(int64(9))},
			"a new copy on node-3 waits to begin: about 1000 bytes are to come, and how long it takes is known once they do; not yet filled"},
		{"a snapshot is on its way", Follower{Connected: true, Install: &Install{Done: 250, Total: ptr(themis.Bytes(1000)), ETAMs: ptr(int64(3000))}}, "a new copy is being built on node-3 (25 %, ETA 3.0 s)"},
		{"from the log", Follower{Connected: true, Seq: ptr(themis.Seq(5)), AckAgeMs: ptr(int64(1)), LagEntries: ptr(int64(4)), LagBytes: ptr(int64(90))}, "a new copy on node-3 reads the log: 4 entries behind, 90 bytes"},
		{"all is there", Follower{Connected: true, Seq: ptr(themis.Seq(9)), AckAgeMs: ptr(int64(1)), LagEntries: ptr(int64(0))}, "a new copy on node-3 has all and is about to be taken into the in-sync set"},
	} {
		w := healthy()
		w.edit("shard-1", func(s *cluster.Shard) {
			s.ISR = s.ISR[:1]
			s.Replicas = append(s.Replicas, cluster.Replica{Member: member("node-3"), Class: cluster.Async})
		})
		c.f.Member, c.f.State = member("node-3"), cmp.Or(c.f.State, cluster.CatchingUp)
		p := w.copyOn("node-1", "shard-1")
		p.Followers = append(p.Followers, c.f)
		p.Stalled = &Stall{Since: ago(time.Second)}
		if got := w.build().why(ShardReadOnly, "shard-1"); !strings.HasSuffix(got, "; "+c.want) {
			t.Errorf("%s: %s", c.what, got)
		}
		p.Stalled, p.NotServing = nil, "the reign's first entry is not committed yet"
		want := "the reign's first entry is not committed yet; writes need 2 in-sync copies and there is 1: " + c.want
		if got := w.build().why(ShardNotServing, "shard-1"); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s", c.what, got)
		}
	}
}
