package health

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// findings is one case for each row of the table: what must be changed in a healthy cluster for it to appear, and its subject,
// severity and words.
var findings = map[Code]struct {
	change   func(*world)
	subject  string
	severity Severity
	why      string // a part of it
}{
	ControlNoQuorum: {func(w *world) {
		w.control.Quorum = ptr(false)
		w.control.Members[1].State, w.control.Members[2].State = Down, Down
	}, "control", CriticalSv, "1 of 3 voting control members answer, 2 are needed"},
	ControlElecting: {func(w *world) {
		w.control.Quorum, w.control.Since = ptr(false), ago(time.Second)
		w.control.Members[1].State = Down
	}, "control", Warning, "2 of 3 voting control members answer, 2 are needed, and they follow no leader yet"},
	ControlMemberDown:   {func(w *world) { w.control.Members[1].State = Down }, "node-2", Warning, "2 of 3 voting members are up, 2 are needed, so 0 more may fail"},
	ControlSingleMember: {func(w *world) { w.control.Members = w.control.Members[:1] }, "control", Info, "node-1 is the only"},
	ShardNoPrimary: {func(w *world) {
		w.edit("shard-1", func(s *cluster.Shard) { s.Primary = cluster.Member{} })
		w.control.NotDone = map[string]string{"shard-1": "0 of 1 in-sync members answer"}
	}, "shard-1", CriticalSv, "epoch 3: the last one lost its disk, and no other was elected; held back: 0 of 1 in-sync members answer; of its 2 voters 2 answer"},
	ShardNotServing: {func(w *world) {
		w.copyOn("node-1", "shard-1").NotServing = "it waits 1.4 s for read leases of the last reign"
	}, "shard-1", CriticalSv, "node-1 leads in epoch 3, but answers no reads: it waits 1.4 s"},
	ShardReadOnly: {func(w *world) {
		w.edit("shard-1", func(s *cluster.Shard) { s.ISR = s.ISR[:1] })
		w.copyOn("node-1", "shard-1").Stalled = &Stall{Since: ago(7 * time.Second), Queued: 12, Waits: "node-2, which is 40 entries behind"}
	}, "shard-1", CriticalSv, "1 of 2 in-sync copies are there, for 7.0 s; 12 writes wait; no new copy is being built yet"},
	ReplicaBroken: {func(w *world) { w.copyOn("node-2", "shard-1").Broken = "fsync: input/output error" }, "shard-1/node-2", CriticalSv, "fsync: input/output error"},
	LogDamaged:    {func(w *world) { w.copyOn("node-2", "shard-1").Damage = "log damaged at seq 7" }, "shard-1/node-2", CriticalSv, "log damaged at seq 7; nothing of it is served"},
	DiskIsFull: {func(w *world) {
		w.states["node-2"].State.DiskFull = &DiskFull{Dir: "/data", Free: 900, Reserve: 1000, Since: ago(time.Minute)}
	}, "node-2", CriticalSv, "900 bytes are free at /data on node-2, 1000 are kept"},
	DiskIsSlow: {func(w *world) { w.states["node-2"].State.DiskSlow = &DiskSlow{Dir: "/data", SyncMs: 510, Syncs: 9} }, "node-2", Warning, "the disk at /data on node-2 takes 510 ms to make a write durable, the median of 9; 250 ms is the bar"},
	DiskAgeStuck: {func(w *world) {
		w.states["node-2"].State.DiskAge = &DiskAgeStands{Dir: "/data", Since: ago(40 * time.Second), Why: "no space"}
	}, "node-2", Warning, "the age of the disk at /data on node-2 has not been counted on for 40.0 s: no space; should an image"},
	ReplicaDead:  {func(w *world) { w.fail("node-3", 42*time.Second) }, "shard-2/node-3", Warning, "node-3 is FAILED: connection refused, silent for 1.2 s; 2 of 2 copies are in sync; no new copy is being built yet"},
	ReplicaBlank: {func(w *world) { w.copyOn("node-2", "shard-1").Blank = "its log ends at 7, it had acknowledged 9" }, "shard-1/node-2", Warning, "its log ends at 7"},
	CopyMissing: {func(w *world) {
		w.edit("shard-1", func(s *cluster.Shard) { s.Want.RF = 3; s.Have.RF = 3 })
		w.control.NotDone = map[string]string{"shard-1": "no free node"}
	}, "shard-1", Warning, "2 of 3 copies are members; no new copy is being built: no free node"},
	ISROfOne: {func(w *world) { w.edit("shard-1", func(s *cluster.Shard) { s.ISR = s.ISR[:1] }) }, "shard-1", Warning, "only node-1 holds all"},
	ReplicaLagging: {func(w *world) {
		f := w.follower("shard-1", "node-2")
		f.State, f.LagEntries, f.LagBytes, f.LagMs = cluster.Lagging, ptr(int64(40)), ptr(int64(5000)), ptr(int64(1900))
		f.Error = "its disk is slow"
	}, "shard-1/node-2", Warning, "40 entries behind, 5000 bytes, 1900 ms, its disk is slow"},
	ReplicaCatchingUp: {func(w *world) {
		w.edit("shard-1", func(s *cluster.Shard) { s.ISR = s.ISR[:1] }) // the record says so, whatever the primary thinks
	}, "shard-1/node-2", Warning, "node-2 is not in the in-sync set yet: 0 entries behind"},
	RebuildRunning: {func(w *world) {
		f := w.follower("shard-1", "node-2")
		f.Install = &Install{Done: 350, Total: ptr(themis.Bytes(1000)), ETAMs: ptr(int64(28000)), Since: ago(time.Minute)}
	}, "shard-1/node-2", Warning, "node-2 has 350 bytes of 1000 (35 %), ETA 28.0 s"},
	RescuedEntries: {func(w *world) { w.copyOn("node-2", "shard-1").Rescued = 3 }, "shard-1/node-2", Warning, "3 entries that node-2 may have acknowledged alone"},
	UnusedCopyKept: {func(w *world) {
		w.states["node-2"].State.Unused = []UnusedCopy{{Shard: "shard-1", Bytes: 700, Since: ago(time.Minute), Kept: "rescued/ holds 2 files"}}
	}, "shard-1/node-2", Info, "node-2 has 700 bytes of shard-1 from before its copy was replaced; kept: rescued/ holds 2 files"},
	PolicyChanging: {func(w *world) { w.edit("shard-1", func(s *cluster.Shard) { s.Want.Mode = themis.SemiSync }) }, "shard-1", Warning, "wanted semi_sync, replication factor 2, min_sync_replicas 1; in force sync,"},
	NodeFailed:     {func(w *world) { w.fail("node-2", 42*time.Second) }, "node-2", Warning, "copies on it: 2, shards it leads: 1"},
	NodeSuspect: {func(w *world) {
		o := w.states["node-2"]
		o.Err, o.At = "deadline exceeded", ago(90*time.Second)
		w.states["node-2"] = o
		w.silent("node-2", 90*time.Second)
	}, "node-2", Warning, "deadline exceeded; its last word is 1 min 30 s old"},
	NodeCut:        {func(w *world) { delete(w.view.Alive, "node-2") }, "node-2", Warning, "node-2 answers, but"},
	StateUnknown:   {func(w *world) { delete(w.states, "node-1") }, "shard-1", Warning, "whether shard-1 serves is not known: its primary node-1 gave no answer"},
	NoShards:       {func(w *world) { w.view.Shards = nil }, "cluster", Warning, "3 nodes are members"},
	DiskAlmostFull: {func(w *world) { w.state("node-2").DiskUsed = ptr(0.912) }, "node-2", CriticalSv, "the disk of node-2 is 91.2 % full; warnings begin at 70 %, 90 % is critical"},
	CertExpires:    {func(w *world) { w.state("node-2").CertExpires = ptr(noon.Add(12 * 24 * time.Hour)) }, "node-2", Warning, "ends at 2026-03-13T12:00:00Z, 12 days from now"},
	LagHigh:        {func(w *world) { w.follower("shard-1", "node-2").LagMs = ptr(int64(101)) }, "shard-1/node-2", Warning, "101 ms behind, 100 ms is the bar"},
	SpareNotReady: {func(w *world) {
		w.edit("shard-1", func(s *cluster.Shard) {
			s.Replicas = append(s.Replicas, cluster.Replica{Member: member("node-3"), Class: cluster.Spare})
		})
	}, "shard-1/node-3", Warning, "how far it is behind is not known"},
	ShardSkew: {func(w *world) {
		w.copyOn("node-1", "shard-1").Bytes = ptr(themis.Bytes(100 << 20))
		w.copyOn("node-2", "shard-2").Bytes = ptr(themis.Bytes(60 << 20))
	}, "cluster", Warning, "shard-1 holds 104857600 bytes, 25 % more than the mean of 83886080"},
	NodeDraining: {func(w *world) {
		n := w.view.Nodes["node-2"]
		n.Draining = true
		w.view.Nodes["node-2"] = n
	}, "node-2", Info, "copies on it: 2, shards it leads: 1"},
	NodeStopping: {func(w *world) {
		a := w.view.Alive["node-2"]
		a.Stopping = &cluster.Stopping{}
		w.view.Alive["node-2"] = a
	}, "node-2", Info, "shards it still leads: 1, copies that are away until it is back: 2"},
	TailCut: {func(w *world) {
		w.copyOn("node-2", "shard-1").CutTail = &CutTail{At: ago(time.Minute), From: 8, Entries: 0, Bytes: 17, Why: "the last frame is cut short"}
	}, "shard-1/node-2", Info, "node-2 cut 17 bytes with 0 whole entries from seq 8 on: the last frame is cut short"},
	AsyncMayLose: {func(w *world) {
		w.edit("shard-1", func(s *cluster.Shard) { s.Want.Mode, s.Have.Mode = themis.Async, themis.Async })
		w.copyOn("node-1", "shard-1").Seq = 12
		w.follower("shard-1", "node-2").LagMs = ptr(int64(20))
	}, "shard-1", Info, "if node-1 is lost now, so are 3 acknowledged entries (20 ms of writes)"},
	SingleCopy: {func(w *world) {
		w.edit("shard-1", func(s *cluster.Shard) {
			p := cluster.Policy{Mode: themis.Async, RF: 1}
			s.Want, s.Have, s.Replicas, s.ISR = p, p, s.Replicas[1:], s.ISR[:1]
		})
	}, "shard-1", Info, "the loss of node-1's disk"},
	VersionsMixed: {func(w *world) { w.state("node-2").Version = "1.1.0" }, "cluster", Info, "node-1 runs 1.0.0, node-2 runs 1.1.0, node-3 runs 1.0.0"},
	PlainHTTP:     {func(w *world) { w.state("node-2").PlainHTTP = "full" }, "node-2", Info, "node-2 serves everything without TLS"},
	ConfigWarning: {func(w *world) { w.state("node-2").Warnings = []string{"group_wait 2 s is unusual"} }, "node-2", Info, "node-2: group_wait 2 s is unusual"},
}

// TestEveryFinding: each row of the table appears in its case with its words and numbers, degrades or not as the row says, and
// doesn't appear in a healthy cluster.
func TestEveryFinding(t *testing.T) {
	if f := healthy().build().Findings; len(f) != 0 {
		t.Errorf("a healthy cluster has findings: %v", f)
	}
	for _, row := range Table() {
		c, ok := findings[row.Code]
		if !ok {
			t.Errorf("%s: no case", row.Code)
			continue
		}
		w := healthy()
		c.change(w)
		r := w.build()
		all := r.Find(row.Code)
		i := slices.IndexFunc(all, func(f Finding) bool { return f.Subject == c.subject })
		if i < 0 {
			t.Errorf("%s: not found at %s among %v", row.Code, c.subject, r.Findings)
			continue
		}
		f := all[i]
		if f.Severity != c.severity || !strings.Contains(f.Why, c.why) {
			t.Errorf("%s: %s, %q; want %s, %q", row.Code, f.Severity, f.Why, c.severity, c.why)
		}
		if row.Degrades && r.Status == Healthy {
			t.Errorf("%s degrades, but the status is %s", row.Code, r.Status)
		}
		only := !slices.ContainsFunc(r.Findings, func(f Finding) bool { other, _ := f.Code.Check(); return other.Degrades })
		if only && r.Status != Healthy {
			t.Errorf("%s alone makes the status %s", row.Code, r.Status)
		}
		for _, f := range r.Findings {
			if leftOpen(f) || !plain(f.Evidence) || f.Title == "" {
				t.Errorf("%s: %+v", row.Code, f)
			}
		}
	}
	for code := range maps.Keys(findings) {
		if _, ok := code.Check(); !ok {
			t.Errorf("%s has a case but no row", code)
		}
	}
}

// TestFixIsACommand: every fix is a command to type. The programs' own tests hold it against their trees of commands.
func TestFixIsACommand(t *testing.T) {
	programs := []string{"themis-cli ", "themisdb-repl-doctor ", "on {node}: themisdb-repl-doctor ", "on {node}: themis-cli "}
	for _, row := range Table() {
		if !slices.ContainsFunc(programs, func(p string) bool { return strings.HasPrefix(row.Fix, p) }) {
			t.Errorf("%s: %q", row.Code, row.Fix)
		}
	}
}

// TestUnknownIsNull: what nobody says is null with its age, never 0 and never a guess.
func TestUnknownIsNull(t *testing.T) {
	w := healthy()
	o := w.states["node-1"]
	o.Err, o.At = "deadline exceeded", ago(9*time.Second)
	w.states["node-1"] = o
	s, _ := w.build().Shard("shard-1")
	if s.Readable != nil || s.Writable != nil || s.Bytes != nil || s.Documents != nil || s.Queued != nil || s.Commit != nil {
		t.Errorf("a shard whose primary is silent: %+v", s)
	}
	if s.State != ShardDegraded {
		t.Errorf("its state is %s: not known to serve is not OK, and not surely down", s.State)
	}
	p, _ := s.Replica("node-1")
	if p.State != cluster.Unknown || p.Seq != nil || p.LagEntries != nil || p.AgeMs == nil || *p.AgeMs != 9000 {
		t.Errorf("the silent primary: %+v", p)
	}
	f, _ := s.Replica("node-2")
	if f.State != cluster.InSync || f.Seq == nil || f.LagMs != nil {
		t.Errorf("its follower, which answers for itself: %+v", f)
	}
}

// TestReadableNeedsThisReign: the word of another disk, or of a copy that doesn't lead in this epoch, is no word of the primary.
func TestReadableNeedsThisReign(t *testing.T) {
	for name, change := range map[string]func(*LocalReplica){
		"another disk":   func(l *LocalReplica) { l.Storage = "other" },
		"an older epoch": func(l *LocalReplica) { l.Epoch = 2 },
		"a follower":     func(l *LocalReplica) { l.Role = Replica },
		"blank":          func(l *LocalReplica) { l.Blank = "emptied" },
		"broken":         func(l *LocalReplica) { l.Broken = "fsync" },
	} {
		w := healthy()
		change(w.copyOn("node-1", "shard-1"))
		r := w.build()
		if s, _ := r.Shard("shard-1"); s.Readable == nil || *s.Readable || *s.Writable || s.State != ShardUnavailable || r.Status != Critical {
			t.Errorf("%s: readable %v, %s, %s", name, s.Readable, s.State, r.Status)
		}
	}
}

// TestAReignThatIsOver: nobody else was crowned, yet the shard has no primary, and the report says why.
func TestAReignThatIsOver(t *testing.T) {
	w := healthy()
	l := w.copyOn("node-1", "shard-1")
	l.Role, l.Resigned, l.Epoch = Replica, 3, 4
	w.control.NotDone = map[string]string{"shard-1": "1 of 2 voters answer"}
	r := w.build()
	f := r.Find(ShardNoPrimary)
	if want := "node-1 led it, and its reign is over; its copy has promised epoch 4; an election follows; held back: 1 of 2 voters answer"; len(f) != 1 || !strings.Contains(f[0].Why, want) {
		t.Errorf("%+v, want %q", f, want)
	}
	if s, _ := r.Shard("shard-1"); s.State != ShardUnavailable || r.Status != Critical {
		t.Errorf("%s, %s", s.State, r.Status)
	}
	l.Resigned = 2
	if r = w.build(); r.Find(ShardNoPrimary) != nil {
		t.Errorf("a reign before this one: %+v", r.Findings)
	}
}

func TestWritable(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   bool
	}{
		"sync at the floor": {func(*world) {}, true},
		"sync below it":     {func(w *world) { w.edit("shard-1", func(s *cluster.Shard) { s.ISR = s.ISR[:1] }) }, false},
		"semi_sync, its follower is there": {func(w *world) {
			w.edit("shard-1", func(s *cluster.Shard) { s.Have.Mode, s.ISR = themis.SemiSync, s.ISR[:1] })
		}, true},
		"semi_sync, its follower is away": {func(w *world) {
			w.edit("shard-1", func(s *cluster.Shard) { s.Have.Mode = themis.SemiSync })
			w.follower("shard-1", "node-2").Connected = false
		}, false},
		"async, alone": {func(w *world) {
			w.edit("shard-1", func(s *cluster.Shard) { s.Have.Mode, s.ISR = themis.Async, s.ISR[:1] })
			w.follower("shard-1", "node-2").Connected = false
		}, true},
		"the disk is full": {func(w *world) { w.copyOn("node-1", "shard-1").ReadOnly = "its disk is full" }, false},
		"writes wait":      {func(w *world) { w.copyOn("node-1", "shard-1").Stalled = &Stall{Since: noon} }, false},
	} {
		w := healthy()
		c.change(w)
		r := w.build()
		s, _ := r.Shard("shard-1")
		if s.Writable == nil || *s.Writable != c.want || !*s.Readable || (len(r.Find(ShardReadOnly)) == 0) != c.want {
			t.Errorf("%s: writable %v, want %v; %v", name, s.Writable, c.want, r.Find(ShardReadOnly))
		}
	}
}

func TestCrashCost(t *testing.T) {
	async := func(w *world) {
		w.edit("shard-1", func(s *cluster.Shard) { s.Want.Mode, s.Have.Mode = themis.Async, themis.Async })
		w.copyOn("node-1", "shard-1").Seq = 12
	}
	for name, c := range map[string]struct {
		change  func(*world)
		entries *int64
	}{
		"sync waits for all":             {func(*world) {}, ptr(int64(0))},
		"async":                          {async, ptr(int64(3))},
		"async, the follower is dead":    {func(w *world) { async(w); w.fail("node-2", time.Minute) }, ptr(int64(12))},
		"async, the primary isn't heard": {func(w *world) { async(w); delete(w.states, "node-1") }, nil},
	} {
		w := healthy()
		c.change(w)
		s, _ := w.build().Shard("shard-1")
		got := s.CrashCost.Entries
		if (got == nil) != (c.entries == nil) || got != nil && *got != *c.entries {
			t.Errorf("%s: %s, want %s", name, word(got), word(c.entries))
		}
	}
}

func TestFailoverReady(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   *bool
	}{
		"in the set":           {func(*world) {}, ptr(true)},
		"out of the set":       {func(w *world) { w.edit("shard-1", func(s *cluster.Shard) { s.ISR = s.ISR[:1] }) }, ptr(false)},
		"in the set, but dead": {func(w *world) { w.fail("node-2", time.Minute) }, ptr(false)},
		"in the set, silent":   {func(w *world) { w.states["node-2"] = Observed{Err: "deadline"} }, ptr(false)},
		"semi_sync, nobody says": {func(w *world) {
			w.edit("shard-1", func(s *cluster.Shard) { s.Have.Mode = themis.SemiSync })
			delete(w.states, "node-1")
			delete(w.states, "node-2")
		}, nil},
	} {
		w := healthy()
		c.change(w)
		s, _ := w.build().Shard("shard-1")
		r, _ := s.Replica("node-2")
		if got := r.FailoverReady; (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// A copy that neither answers nor has acknowledged lately is not called in sync, however its primary remembers it.
func TestASilentCopyIsNotCalledInSync(t *testing.T) {
	w := healthy()
	o := w.states["node-2"]
	o.At, o.Err, o.Since = ago(15*time.Second), "deadline exceeded", ago(13*time.Second)
	w.states["node-2"] = o
	w.follower("shard-1", "node-2").AckAgeMs = ptr(int64(15000))
	s, _ := w.build().Shard("shard-1")
	if r, _ := s.Replica("node-2"); r.State != cluster.Unknown || !strings.Contains(r.Why, "acknowledged last 15.0 s ago") {
		t.Errorf("%+v", r)
	}
}

// TestReplicaStatesAreAllReached: every state of a replica and of a spare can be shown.
func TestReplicaStatesAreAllReached(t *testing.T) {
	var want []cluster.State
	for _, tr := range slices.Concat(cluster.ReplicaTransitions(), cluster.SpareTransitions()) {
		want = append(want, tr.From, tr.To)
	}
	seen := map[cluster.State]bool{}
	note := func(change func(*world)) {
		w := healthy()
		change(w)
		for _, s := range w.build().Shards {
			for _, r := range s.Replicas {
				seen[r.State] = true
			}
		}
	}
	for _, c := range findings {
		note(c.change)
	}
	for _, state := range []cluster.State{cluster.Standby, cluster.Recovery, cluster.Active} {
		note(func(w *world) {
			w.edit("shard-1", func(s *cluster.Shard) { s.Replicas[0].Class = cluster.Spare })
			w.follower("shard-1", "node-2").State = state
		})
	}
	for _, state := range want {
		if !seen[state] {
			t.Errorf("%s is never shown", state)
		}
	}
}

// TestElectingIsNotNoQuorum: enough members that follow no leader elect one; only when that lasts, or too few answer, is there no quorum.
func TestElectingIsNotNoQuorum(t *testing.T) {
	for name, c := range map[string]struct {
		down   int
		since  time.Time
		code   Code
		status Status
		quorum *bool
	}{
		"the leader has died just now": {1, ago(time.Second), ControlElecting, Degraded, nil},
		"they can't reach each other":  {0, ago(ElectingFor), ControlNoQuorum, Critical, ptr(false)},
		"too few answer":               {2, ago(time.Second), ControlNoQuorum, Critical, ptr(false)},
		"since when nobody knows":      {1, time.Time{}, ControlNoQuorum, Critical, ptr(false)},
	} {
		w := healthy()
		w.control.Quorum, w.control.Since = ptr(false), c.since
		for i := range c.down {
			w.control.Members[i].State = Down
		}
		r := w.build()
		if len(r.Find(c.code)) != 1 || len(r.Find(ControlElecting))+len(r.Find(ControlNoQuorum)) != 1 || r.Status != c.status {
			t.Errorf("%s: %s, %v", name, r.Status, r.Findings)
		}
		if (r.Control.Quorum == nil) != (c.quorum == nil) {
			t.Errorf("%s: quorum %v", name, r.Control.Quorum)
		}
	}
}

// TestRefusingPrimaryServesNothing: where nobody listens at the primary's address, its shards surely serve nothing, also before it is
// declared FAILED; where it only gave no answer, that isn't known.
func TestRefusingPrimaryServesNothing(t *testing.T) {
	w := healthy()
	o := w.states["node-1"]
	o.Err, o.Refused, o.Since = "node-1 refused the connection", true, ago(time.Second)
	w.states["node-1"] = o
	r := w.build()
	s, _ := r.Shard("shard-1")
	if s.State != ShardUnavailable || s.Readable == nil || *s.Readable || r.Status != Critical {
		t.Errorf("refused: %s, %v, %s", s.State, s.Readable, r.Status)
	}
	f := r.Find(ShardNotServing)
	if len(f) != 1 || !strings.Contains(f[0].Why, "no process of node-1 runs") || f[0].Since == nil || len(r.Find(StateUnknown)) > 0 {
		t.Errorf("refused: %v", r.Findings)
	}
	o.Refused, o.At = false, ago(FreshFor+time.Second)
	w.states["node-1"] = o
	r = w.build()
	if s, _ := r.Shard("shard-1"); s.Readable != nil || len(r.Find(StateUnknown)) == 0 {
		t.Errorf("silent: %v, %v", s.Readable, r.Findings)
	}
}

// TestSharedDiskIsToldOnce: nodes of one machine on one file system fill one disk.
func TestSharedDiskIsToldOnce(t *testing.T) {
	w := healthy()
	for _, id := range []themis.NodeID{"node-1", "node-2", "node-3"} {
		w.state(id).DiskUsed, w.state(id).Disk = ptr(0.75), "fd01"
		n := w.view.Nodes[id]
		n.GRPC = "10.0.0.1:5005" + string(id[5])
		w.view.Nodes[id] = n
	}
	n := w.view.Nodes["node-3"]
	n.GRPC = "10.0.0.3:50051" // another machine, whose disk has the same number
	w.view.Nodes["node-3"] = n
	f := w.build().Find(DiskAlmostFull)
	if len(f) != 2 || !strings.HasPrefix(f[0].Why, "the disk of node-1, node-2 is 75 % full") || !strings.HasPrefix(f[1].Why, "the disk of node-3 is") {
		t.Errorf("%v", f)
	}
}

// TestNewestWord: the age of a node's newest word is that to whoever heard it last: the node that makes the report, the controller's probe, those
// that its own heartbeat as the controller reaches, a primary that it follows. What a node that is silent itself had heard does not count.
func TestNewestWord(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   *int64
	}{
		"nobody else":            {func(*world) {}, ptr(int64(51_000))},
		"the controller, later":  {func(w *world) { w.state("node-2").Heard = map[themis.NodeID]int64{"node-3": 9_000} }, ptr(int64(10_000))},
		"the controller, before": {func(w *world) { w.state("node-2").Heard = map[themis.NodeID]int64{"node-3": 90_000} }, ptr(int64(51_000))},
		"the controller alone": {func(w *world) {
			w.states["node-3"] = Observed{Err: "deadline"}
			w.state("node-2").Heard = map[themis.NodeID]int64{"node-3": 9_000}
		}, ptr(int64(10_000))},
		"one that was the controller": {func(w *world) {
			w.view.Controller = cluster.Controller{Node: "node-2", Term: 2}
			w.state("node-1").Heard = map[themis.NodeID]int64{"node-3": 11_880}
		}, ptr(int64(12_000))},
		"its own heartbeat as the controller": {func(w *world) {
			w.view.Controller = cluster.Controller{Node: "node-3", Term: 2}
			w.state("node-2").Controller = &ControllerHeard{Term: 2, AgeMs: 3_000}
		}, ptr(int64(4_000))},
		"the heartbeat of a controller before it": {func(w *world) {
			w.view.Controller = cluster.Controller{Node: "node-3", Term: 2}
			w.state("node-2").Controller = &ControllerHeard{Term: 1, AgeMs: 3_000}
		}, ptr(int64(51_000))},
		"the primary that it follows":  {func(w *world) { w.silent("node-3", 5*time.Second) }, ptr(int64(6_000))},
		"nobody":                       {func(w *world) { w.states["node-3"] = Observed{Err: "deadline"} }, nil},
		"a controller that was silent": {func(w *world) { w.state("node-3").Heard = map[themis.NodeID]int64{"node-3": 1} }, ptr(int64(51_000))},
	} {
		w := healthy()
		for id, at := range map[themis.NodeID]time.Duration{"node-2": time.Second, "node-3": 51 * time.Second} {
			o := w.states[id]
			o.At = ago(at)
			w.states[id] = o
		}
		w.follower("shard-2", "node-3").AckAgeMs = nil
		c.change(w)
		for _, n := range w.build().Nodes {
			if n.ID == "node-3" && !reflect.DeepEqual(n.LastHeartbeat, c.want) {
				t.Errorf("%s: %v; want %v", name, n.LastHeartbeat, c.want)
			}
		}
	}
}

// What a copy says of itself is as old as that, however lately its node was heard in another way.
func TestFiguresHaveTheirOwnAge(t *testing.T) {
	w := healthy()
	o := w.states["node-3"]
	o.At = ago(2 * time.Second)
	w.states["node-3"] = o
	s, _ := w.build().Shard("shard-2")
	if r, _ := s.Replica("node-3"); r.Seq == nil || r.AgeMs == nil || *r.AgeMs != 2000 {
		t.Errorf("seq %v, age %v", r.Seq, r.AgeMs)
	}
}

// The disk of a node that is silent is not known, though its record in the control plane names a ratio: in a cluster without a quorum records never end.
func TestDiskOfASilentNodeIsNotKnown(t *testing.T) {
	w := healthy()
	o := w.states["node-3"]
	o.At, o.Err = ago(52*time.Second), "deadline exceeded"
	o.State.DiskFree = ptr(themis.Bytes(1000))
	w.states["node-3"] = o
	w.view.Alive["node-3"] = cluster.Alive{Node: "node-3", Storage: member("node-3").Storage, Boot: "b", Version: "1.0.0", DiskUsed: ptr(0.95)}
	r := w.build()
	if n, _ := r.Node("node-3"); n.DiskUsed != nil || n.DiskFree != nil || len(r.Find(DiskAlmostFull)) > 0 {
		t.Errorf("%v, %v, %v", n.DiskUsed, n.DiskFree, r.Find(DiskAlmostFull))
	}
	if n, _ := r.Node("node-2"); n.DiskUsed == nil || *n.DiskUsed != 0.4 {
		t.Errorf("of one that answers: %v", n.DiskUsed)
	}
}
