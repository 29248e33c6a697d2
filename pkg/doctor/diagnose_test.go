package doctor

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

func ptr[T any](v T) *T { return &v }

// healthy is the evidence of a cluster of three that lacks nothing, looked at twice.
func healthy() Evidence {
	e := Evidence{Began: noon.Add(-2 * time.Second), Ended: noon, Own: Own{Name: "client operator", Expires: noon.Add(300 * 24 * time.Hour)}}
	for _, n := range []themis.NodeID{"node-1", "node-2", "node-3"} {
		w := Witness{
			Node: n, Addr: string(n) + ":50051", Member: true, SelfAt: noon.Add(-2 * time.Second),
			Self:  &client.Description{Node: n, Storage: themis.StorageID("disk-" + n), ClusterID: "c-1", Cluster: "demo", Version: "1.0"},
			Cert:  &Certificate{Subject: "CN=" + string(n), NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(300 * 24 * time.Hour)},
			Clock: &Clock{Skew: 3 * time.Millisecond, Error: time.Millisecond, At: noon.Add(-time.Second)},
		}
		for _, at := range []time.Time{noon.Add(-2 * time.Second), noon.Add(-100 * time.Millisecond)} {
			w.Looks = append(w.Looks, Look{At: at, Report: healthyReport(), Map: healthyMap(at)})
		}
		e.Witnesses = append(e.Witnesses, w)
	}
	return e
}

func healthyReport() health.Report {
	return health.Report{Status: health.Healthy, Cluster: "demo", Revision: 10, Shards: []health.ShardReport{{
		ID: "shard-1", Readable: ptr(true), Writable: ptr(true), Primary: "node-1",
		Replicas: []health.ReplicaReport{{Node: "node-1", AgeMs: ptr(int64(50))}, {Node: "node-2", AgeMs: ptr(int64(90))}},
	}}}
}

func healthyMap(at time.Time) *MapWord {
	m := &MapWord{At: at, ClusterID: "c-1", Cluster: "demo", Revision: 10, Routing: 1, Settings: 4, Controller: cluster.Controller{Term: 2, Node: "node-1"}}
	for _, n := range []themis.NodeID{"node-1", "node-2", "node-3"} {
		m.Members = append(m.Members, cluster.Node{ID: n, Storage: themis.StorageID("disk-" + n)})
	}
	m.Shards = []cluster.Shard{{
		ID: "shard-1", Epoch: 3, Primary: cluster.Member{Node: "node-1", Storage: "disk-node-1"},
		ISR: []cluster.Member{{Node: "node-1", Storage: "disk-node-1"}, {Node: "node-2", Storage: "disk-node-2"}},
	}}
	return m
}

// reported puts a finding into the newest reports of some nodes.
func reported(e *Evidence, code health.Code, severity health.Severity, subject string, by ...int) {
	for _, i := range by {
		l := &e.Witnesses[i].Looks[1]
		l.Report.Findings = append(l.Report.Findings, health.Finding{Code: code, Severity: severity, Subject: subject, Why: "as told", Fix: "type this"})
	}
}

// silence takes away all that a node said.
func silence(w *Witness) {
	*w = Witness{Node: w.Node, Addr: w.Addr, Member: true, Err: "connection refused", Code: themis.Unreachable}
}

func TestDiagnose(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(e *Evidence)
		findings string // code severity subject; …
		unlooked string // check subject; …
		exit     int
		exitCrit int // at the bar critical
	}{
		{"healthy", func(*Evidence) {}, "", "", 0, 0},
		{"no evidence at all", func(e *Evidence) { e.Witnesses = nil },
			"", "answers cluster; certificates cluster; clocks cluster; freshness cluster; identity cluster; map cluster; reigns cluster; replication cluster; versions cluster", 3, 3},
		{"a silent member", func(e *Evidence) { silence(&e.Witnesses[2]) }, "", "answers node-3", 3, 3},
		{"a member that is known to be down", func(e *Evidence) {
			silence(&e.Witnesses[2])
			reported(e, health.NodeFailed, health.Warning, "node-3", 0, 1)
		}, "NODE_FAILED warning node-3", "", 1, 0},
		{"a member that answers although it was declared down", func(e *Evidence) {
			reported(e, health.NodeFailed, health.Warning, "node-3", 0, 1)
			e.Witnesses[2].Clock.Skew = time.Minute
		}, "CLOCK_SKEW critical node-3; NODE_FAILED warning node-3", "", 1, 1},
		{"one fact told by all is one finding", func(e *Evidence) { reported(e, health.ISROfOne, health.Warning, "shard-1", 0, 1, 2) }, "ISR_OF_ONE warning shard-1", "", 1, 0},
		{"the worst word counts", func(e *Evidence) {
			reported(e, health.DiskAlmostFull, health.Warning, "node-1", 0)
			reported(e, health.DiskAlmostFull, health.CriticalSv, "node-1", 2)
		}, "DISK_ALMOST_FULL critical node-1", "", 1, 1},
		{"advice", func(e *Evidence) { reported(e, health.PlainHTTP, health.Info, "node-1", 0) }, "PLAIN_HTTP info node-1", "", 0, 0},
		{"a warning and a silence", func(e *Evidence) {
			silence(&e.Witnesses[2])
			reported(e, health.LagHigh, health.Warning, "shard-1/node-2", 0)
		}, "LAG_HIGH warning shard-1/node-2", "answers node-3", 1, 3},
		{"an endpoint of another cluster", func(e *Evidence) { e.Witnesses[2].Self.ClusterID = "c-9" }, "FOREIGN_CLUSTER critical node-3", "", 1, 1},
		{"a copied data directory", func(e *Evidence) {
			e.Witnesses[2].Self.Storage = "disk-node-2"
			for i := range e.Witnesses {
				for _, l := range e.Witnesses[i].Looks {
					l.Map.Members[2].Storage = "disk-node-2"
				}
			}
		}, "STORAGE_TWICE critical cluster", "", 1, 1},
		{"an emptied disk under an old name", func(e *Evidence) { e.Witnesses[1].Self.Storage = "disk-new" }, "STORAGE_CHANGED warning node-2", "", 1, 0},
		{"two primaries of one epoch", func(e *Evidence) {
			for i := range 2 {
				m := e.Witnesses[2].Looks[i].Map
				m.Revision, m.Shards[0].Primary = 11, cluster.Member{Node: "node-2", Storage: "disk-node-2"}
			}
			ahead(e)
		}, "TWO_PRIMARIES critical shard-1", "", 1, 1},
		{"a primary again on another disk", func(e *Evidence) {
			for i := range 2 {
				m := e.Witnesses[2].Looks[i].Map
				m.Revision, m.Shards[0].Primary.Storage = 11, "disk-z"
			}
			ahead(e)
		}, "TWO_PRIMARIES critical shard-1", "", 1, 1},
		{"a failover between the looks", func(e *Evidence) {
			for i := range e.Witnesses {
				m := e.Witnesses[i].Looks[1].Map
				m.Revision, m.Shards[0].Epoch, m.Shards[0].Primary = 11, 4, cluster.Member{Node: "node-2", Storage: "disk-node-2"}
			}
		}, "", "", 0, 0},
		{"two controllers of one term", func(e *Evidence) {
			for i := range 2 {
				m := e.Witnesses[2].Looks[i].Map
				m.Revision, m.Controller.Node = 11, "node-2"
			}
			ahead(e)
		}, "TWO_CONTROLLERS critical control", "", 1, 1},
		{"one revision, two contents", func(e *Evidence) { e.Witnesses[2].Looks[1].Map.Settings = 9 }, "MAP_DIVERGED critical cluster", "", 1, 1},
		{"one revision, two in-sync sets", func(e *Evidence) { e.Witnesses[2].Looks[0].Map.Shards[0].ISR = nil }, "MAP_DIVERGED critical cluster", "", 1, 1},
		{"a node that is behind", func(e *Evidence) {
			for i := range 2 {
				for _, l := range e.Witnesses[i].Looks {
					l.Map.Revision, l.Map.Settings, l.Map.Routing = 12, 5, 2
				}
			}
		}, "MAP_STALE warning node-3", "", 1, 0},
		{"a change that one look saw and the other not yet", func(e *Evidence) {
			for i := range 2 {
				e.Witnesses[i].Looks[1].Map.Revision = 12
			}
		}, "", "", 0, 0},
		{"a clock that is off", func(e *Evidence) { e.Witnesses[0].Clock.Skew = -900 * time.Millisecond }, "CLOCK_SKEW warning node-1", "", 1, 0},
		{"a clock far off", func(e *Evidence) { e.Witnesses[0].Clock.Skew = 40 * time.Second }, "CLOCK_SKEW critical node-1", "", 1, 1},
		{"a clock that may be right", func(e *Evidence) {
			e.Witnesses[0].Clock.Skew, e.Witnesses[0].Clock.Error = 900*time.Millisecond, 600*time.Millisecond
		}, "", "", 0, 0},
		{"two clocks that differ", func(e *Evidence) {
			e.Witnesses = e.Witnesses[:2]
			e.Witnesses[0].Clock.Skew = time.Second
		}, "CLOCK_SKEW warning node-1", "", 1, 0},
		{"this machine's clock", func(e *Evidence) {
			for i := range e.Witnesses {
				e.Witnesses[i].Clock.Skew = 10 * time.Second
			}
		}, "OWN_CLOCK info this machine", "", 0, 0},
		{"a clock that was not measured", func(e *Evidence) { e.Witnesses[1].Clock = nil }, "", "clocks node-2", 3, 3},
		{"two versions", func(e *Evidence) { e.Witnesses[1].Self.Version = "1.1" }, "VERSIONS_MIXED info cluster", "", 0, 0},
		{"two versions, told by a node too", func(e *Evidence) {
			e.Witnesses[1].Self.Version = "1.1"
			reported(e, health.VersionsMixed, health.Info, "cluster", 0)
		}, "VERSIONS_MIXED info cluster", "", 0, 0},
		{"a certificate near its end", func(e *Evidence) { e.Witnesses[1].Cert.NotAfter = noon.Add(20 * 24 * time.Hour) }, "CERT_EXPIRES warning node-2", "", 1, 0},
		{"a certificate at its end", func(e *Evidence) { e.Witnesses[1].Cert.NotAfter = noon.Add(-time.Second) }, "CERT_EXPIRES critical node-2", "", 1, 1},
		{"worse on the wire than in the report", func(e *Evidence) {
			reported(e, health.CertExpires, health.Warning, "node-2", 0)
			e.Witnesses[1].Cert.NotAfter = noon.Add(-time.Second)
		}, "CERT_EXPIRES critical node-2", "", 1, 1},
		{"the same on the wire and in the report", func(e *Evidence) {
			reported(e, health.CertExpires, health.Warning, "node-2", 0)
			e.Witnesses[1].Cert.NotAfter = noon.Add(20 * 24 * time.Hour)
		}, "CERT_EXPIRES warning node-2", "", 1, 0},
		{"a stranger's certificate", func(e *Evidence) { e.Witnesses[1].Cert.Untrusted = "unknown authority" }, "CERT_UNTRUSTED critical node-2", "", 1, 1},
		{"a silent node whose certificate has ended", func(e *Evidence) {
			shown := *e.Witnesses[1].Cert
			shown.NotAfter = noon.Add(-time.Hour)
			silence(&e.Witnesses[1])
			e.Witnesses[1].Cert = &shown
		}, "CERT_EXPIRES critical node-2", "answers node-2", 1, 1},
		{"no certificate", func(e *Evidence) { e.Witnesses[1].Cert = nil }, "", "certificates node-2", 3, 3},
		{"one's own certificate", func(e *Evidence) { e.Own.Expires = noon.Add(time.Hour) }, "OWN_CERT_EXPIRES critical client operator", "", 1, 1},
		{"a shard that could not be asked", func(e *Evidence) { newest(e, func(r *health.Report) { r.Shards[0].Readable = nil }) }, "", "freshness shard-1", 3, 3},
		{"old figures", func(e *Evidence) {
			newest(e, func(r *health.Report) { r.Shards[0].Replicas[1].AgeMs = ptr(int64(9000)) })
		}, "", "freshness shard-1/node-2", 3, 3},
		{"no figures", func(e *Evidence) { newest(e, func(r *health.Report) { r.Shards[0].Replicas[1].AgeMs = nil }) }, "", "freshness shard-1/node-2", 3, 3},
		{"a node that tells no map", func(e *Evidence) {
			for i := range 2 {
				e.Witnesses[2].Looks[i].Map = nil
			}
		}, "", "answers node-3; map node-3; reigns node-3", 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := healthy()
			c.change(&e)
			d := Diagnose(e)
			if got := findingsOf(d); got != c.findings {
				t.Errorf("findings %q, want %q", got, c.findings)
			}
			var open []string
			for _, u := range d.Inconclusive {
				open = append(open, u.Check+" "+u.Subject)
				if u.Why == "" || u.Fix == "" {
					t.Errorf("%+v", u)
				}
			}
			slices.Sort(open)
			if got := strings.Join(open, "; "); got != c.unlooked {
				t.Errorf("not looked at %q, want %q", got, c.unlooked)
			}
			if got, crit := d.Exit(health.Warning), d.Exit(health.CriticalSv); got != c.exit || crit != c.exitCrit {
				t.Errorf("exit %d, want %d; at critical %d, want %d", got, c.exit, crit, c.exitCrit)
			}
			wellFormed(t, d)
		})
	}
}

// ahead lets the others have known an older map only, at the same moments, so that nobody is behind for long.
func ahead(e *Evidence) {
	e.Witnesses[2].Looks = e.Witnesses[2].Looks[1:]
}

// newest edits the newest report of every node.
func newest(e *Evidence, edit func(r *health.Report)) {
	for i := range e.Witnesses {
		edit(&e.Witnesses[i].Looks[1].Report)
	}
}

func findingsOf(d Diagnosis) string {
	var out []string
	for _, f := range d.Findings {
		out = append(out, string(f.Code)+" "+string(f.Severity)+" "+f.Subject)
	}
	return strings.Join(out, "; ")
}

// wellFormed: words are filled in, and no check passes that did not look at everything.
func wellFormed(t *testing.T, d Diagnosis) {
	t.Helper()
	for _, f := range d.Findings {
		if f.Why == "" || f.Fix == "" || f.Cause == "" || f.Title == "" && f.Why != "as told" || strings.ContainsAny(f.Why+f.Fix+f.Cause, "{}") {
			t.Errorf("%+v", f)
		}
		if f.AgeMs < 0 || f.AgeMs > 2000 || f.SeenBy == nil {
			t.Errorf("age %d, seen by %v: %s", f.AgeMs, f.SeenBy, f.Code)
		}
	}
	if len(d.Checks) != len(examinations) {
		t.Errorf("%d checks", len(d.Checks))
	}
	for _, c := range d.Checks {
		if c.Verdict == Passed && (c.Looked == 0 || c.Looked < c.Of) {
			t.Errorf("passed without evidence: %+v", c)
		}
	}
}

func TestDiagnoseTellsWhoSawIt(t *testing.T) {
	e := healthy()
	reported(&e, health.ISROfOne, health.Warning, "shard-1", 0, 2)
	f := Diagnose(e).Findings[0]
	if !slices.Equal(f.SeenBy, []themis.NodeID{"node-1", "node-3"}) || f.AgeMs != 100 || f.Cause == "" {
		t.Errorf("%+v", f)
	}
}

func TestDiagnosisOnly(t *testing.T) {
	e := healthy()
	reported(&e, health.ISROfOne, health.Warning, "shard-1", 0)
	reported(&e, health.LagHigh, health.Warning, "shard-2/node-2", 0)
	reported(&e, health.DiskAlmostFull, health.Info, "node-2", 0)
	if got := findingsOf(Diagnose(e).Only("shard-2")); got != "LAG_HIGH warning shard-2/node-2; DISK_ALMOST_FULL info node-2" {
		t.Error(got)
	}
	if d := Diagnose(e).Only("shard-3"); d.Verdict != Passed || d.Exit(health.Warning) != 0 {
		t.Errorf("%+v", d)
	}
}

// TestShardThatIsNotThere: of a shard that the cluster does not have nothing is fine.
func TestShardThatIsNotThere(t *testing.T) {
	e := healthy()
	if err := e.Has("shard-1"); err != nil {
		t.Error(err)
	}
	err := e.Has("shard-99")
	if themis.CodeOf(err) != themis.NotFound || !strings.Contains(err.Error(), `no shard "shard-99"`) || !strings.Contains(err.Error(), "there are: shard-1") {
		t.Error(err)
	}
	if err := (Evidence{}).Has("shard-99"); err != nil {
		t.Errorf("nobody knows: %v", err)
	}
}

func TestClockOf(t *testing.T) {
	at := func(ms int) time.Time { return noon.Add(time.Duration(ms) * time.Millisecond) }
	c := clockOf([]clockSample{
		{asked: at(0), answered: at(400), told: at(5000)}, // the long way
		{asked: at(1000), answered: at(1010), told: at(6004)},
		{asked: at(2000), answered: at(2100), told: at(7000)},
	})
	if c == nil || c.Skew != 4999500*time.Microsecond || c.Error != 5500*time.Microsecond || !c.At.Equal(at(1010)) {
		t.Errorf("%+v", c)
	}
	if clockOf(nil) != nil {
		t.Error("a clock from no sample")
	}
}

func TestParseBar(t *testing.T) {
	for in, want := range map[string]health.Severity{"": "warning", "info": "info", "warning": "warning", "critical": "critical"} {
		if got, err := ParseBar(in); err != nil || got != want {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
	if _, err := ParseBar("degraded"); themis.CodeOf(err) != themis.InvalidArgument {
		t.Error(err)
	}
}

// TestTables: every finding there can be has its words, once.
func TestTables(t *testing.T) {
	seen := map[health.Code]bool{}
	for _, c := range Table() {
		if c.Title == "" || c.Why == "" || c.Cause == "" || c.Fix == "" || !slices.Contains(severities, c.Severity) || seen[c.Code] {
			t.Errorf("%+v", c)
		}
		if _, twice := c.Code.Check(); twice {
			t.Errorf("%s is a code of the health report already", c.Code)
		}
		seen[c.Code] = true
	}
	for _, c := range health.Table() {
		if causes[c.Code] == "" {
			t.Errorf("%s: no likely cause", c.Code)
		}
	}
	for code := range causes {
		if _, ok := code.Check(); !ok {
			t.Errorf("%s: a cause of what is no finding", code)
		}
	}
}
