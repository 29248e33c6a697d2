package tui

import (
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

func pointer[T any](v T) *T { return &v }

var boxTime = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// sample is the cluster of the box that the product's book shows.
func sample() health.Report {
	since := boxTime.Add(-42 * time.Second)
	return health.Report{
		Status: health.Degraded, Cluster: "demo", Time: boxTime,
		Control: health.ControlReport{Leader: "node-3", Controller: "node-1", Quorum: pointer(true)},
		Shards: []health.ShardReport{
			{ID: "shard-1", Primary: "node-1", State: health.ShardDegraded, Replicas: []health.ReplicaReport{
				{Node: "node-1", Role: health.Primary, State: cluster.InSync},
				{Node: "node-2", Role: health.Replica, State: cluster.FailedState, Since: &since},
				{Node: "node-5", Role: health.Replica, State: cluster.Bootstrapping, Rebuild: &health.Rebuild{Percent: pointer(35.4), ETAMs: pointer(int64(28_000))}},
			}},
			{ID: "shard-2", Primary: "node-3", State: health.ShardOK, Replicas: []health.ReplicaReport{
				{Node: "node-3", Role: health.Primary, State: cluster.InSync},
				{Node: "node-4", Role: health.Replica, State: cluster.InSync},
			}},
		},
	}
}

const sampleBox = `
┌────────────────────────────────────────────────┐
│ CLUSTER HEALTH: DEGRADED                       │
├────────────────────────────────────────────────┤
│ Shard 1: PRIMARY ✅ node-1 (Leader)            │
│          REPLICA ❌ node-2 (DEAD - 00:00:42)   │
│                                                │
│ Shard 2: PRIMARY ✅ node-3                     │
│          REPLICA ✅ node-4                     │
│                                                │
│ ⚠️ Rebuilding Replica on node-5... (35%)       │
│ ETA: 00:00:28                                  │
└────────────────────────────────────────────────┘
`

const sampleASCII = `
+------------------------------------------------+
| CLUSTER HEALTH: DEGRADED                       |
+------------------------------------------------+
| Shard 1: PRIMARY [ok] node-1 (Leader)          |
|          REPLICA [xx] node-2 (DEAD - 00:00:42) |
|                                                |
| Shard 2: PRIMARY [ok] node-3                   |
|          REPLICA [ok] node-4                   |
|                                                |
| [!!] Rebuilding Replica on node-5... (35%)     |
| ETA: 00:00:28                                  |
+------------------------------------------------+
`

const sampleNarrow = `
┌──────────────────────────────────────┐
│ CLUSTER HEALTH: DEGRADED             │
├──────────────────────────────────────┤
│ Shard 1: PRIMARY ✅ node-1 (Leader)  │
│          REPLICA ❌ node-2 (DEAD - … │
│                                      │
│ Shard 2: PRIMARY ✅ node-3           │
│          REPLICA ✅ node-4           │
│                                      │
│ ⚠️ Rebuilding Replica on node-5... … │
│ ETA: 00:00:28                        │
└──────────────────────────────────────┘
`

func TestHealthBoxIsThatOfTheBook(t *testing.T) {
	for name, x := range map[string]struct {
		width int
		style Style
		want  string
	}{
		"as in the book": {0, Style{Unicode: true}, sampleBox},
		"80 columns":     {80, Style{Unicode: true}, sampleBox},
		"200 columns":    {200, Style{Unicode: true}, sampleBox},
		"40 columns":     {40, Style{Unicode: true}, sampleNarrow},
		"ASCII":          {80, Style{}, sampleASCII},
	} {
		t.Run(name, func(t *testing.T) {
			got := HealthBox(sample(), x.width, x.style)
			if got != strings.TrimPrefix(x.want, "\n") {
				t.Errorf("got\n%swant%s", got, x.want)
			}
			if !x.style.Unicode && strings.ContainsFunc(got, func(r rune) bool { return r > 126 }) {
				t.Error("not ASCII")
			}
		})
	}
}

func TestHealthBoxFitsItsWidth(t *testing.T) {
	r := sample()
	r.Shards[0].Replicas[1].Node = themis.NodeID(strings.Repeat("n", 200))
	for width := 20; width < 150; width += 7 {
		for _, s := range []Style{{}, {Unicode: true}, {Unicode: true, Color: true}} {
			lines := strings.Split(strings.TrimSuffix(HealthBox(r, width, s), "\n"), "\n")
			for _, l := range lines[1:] {
				if w := lipgloss.Width(l); w > width && width > 40 || w != lipgloss.Width(lines[0]) {
					t.Fatalf("%d columns: a line has %d, the first %d:\n%s", width, w, lipgloss.Width(lines[0]), strings.Join(lines, "\n"))
				}
			}
		}
	}
}

func TestHealthBoxSaysWhatIsWrong(t *testing.T) {
	no, lag := false, int64(7)
	r := health.Report{Status: health.Critical, Time: boxTime, Control: health.ControlReport{
		Quorum: &no, Members: []health.ControlMember{{Node: "node-1", State: "voter"}, {Node: "node-2", State: "down"}, {Node: "node-3", State: "down"}},
	}, Shards: []health.ShardReport{
		{ID: "shard-1", Replicas: []health.ReplicaReport{{Node: "node-2", Role: health.Replica, State: cluster.FailedState}}},
		{ID: "shard-2", Primary: "node-1", Writable: &no, Replicas: []health.ReplicaReport{
			{Node: "node-1", Role: health.Primary, State: cluster.InSync}, {Node: "node-2", Role: health.Replica, State: cluster.Lagging, LagEntries: &lag},
		}},
		{ID: "shard-3", Primary: "node-1", Readable: &no, Want: &cluster.Policy{Mode: themis.Sync, RF: 3, K: 1}, Replicas: []health.ReplicaReport{
			{Node: "node-1", Role: health.Primary, State: cluster.InSync}, {Node: "node-2", Role: health.Replica, State: cluster.Blank},
			{Node: "node-3", Role: health.Replica, State: cluster.Unknown}, {Node: "node-4", Role: health.Spare, State: cluster.Standby},
			{Node: "node-5", Role: health.Replica, State: cluster.CatchingUp, Joining: true},
		}},
	}}
	got := HealthBox(r, 80, Style{})
	for _, want := range []string{
		"Shard 1: PRIMARY [xx] none", "REPLICA [xx] node-2 (DEAD) ", "PRIMARY [!!] node-1 (takes no writes)", "REPLICA [!!] node-2 (LAGGING - 7 entries)",
		"PRIMARY [xx] node-1 (serves nothing)", "REPLICA [xx] node-2 (BLANK)", "REPLICA [!!] node-3 (UNKNOWN)", "SPARE   [ok] node-4 ",
		"changing to sync, 3 copies, 2 in sync", "[!!] Rebuilding Replica on node-5...", "[xx] Control plane: no quorum, 1 of 3 members",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	r.Control.Quorum = nil
	if got := HealthBox(r, 80, Style{}); !strings.Contains(got, "Control plane: electing a leader") {
		t.Error(got)
	}
	r.Control.Members[0].State = health.Down
	if got := HealthBox(r, 80, Style{}); !strings.Contains(got, "Control plane: no member answers") {
		t.Error(got)
	}
}

func TestManyShardsAreFolded(t *testing.T) {
	r := health.Report{Status: health.Degraded, Control: health.ControlReport{Quorum: pointer(true)}}
	for i := range 100 {
		s := health.ShardReport{ID: themis.ShardID("shard-" + string(rune('0'+i%10))), State: health.ShardOK, Primary: "a", Replicas: []health.ReplicaReport{{Node: "a", Role: health.Primary, State: cluster.InSync}}}
		if i == 50 {
			s.ID, s.State, s.Primary, s.Replicas = "shard-51", health.ShardUnavailable, "", nil
		}
		r.Shards = append(r.Shards, s)
	}
	got := HealthBox(r, 80, Style{})
	if n := strings.Count(got, "Shard "); n != 1 || !strings.Contains(got, "Shard 51: PRIMARY [xx] none") || !strings.Contains(got, "[ok] 99 shards OK") {
		t.Errorf("%d shards:\n%s", n, got)
	}
	if n := strings.Count(HealthBox(r, 80, Style{All: true}), "PRIMARY"); n != 100 {
		t.Errorf("%d of 100 shards", n)
	}
}

func TestFindingsSayWhatToType(t *testing.T) {
	since := boxTime.Add(-90 * time.Minute)
	r := health.Report{Time: boxTime, Findings: []health.Finding{
		{Code: "REPLICA_DEAD", Severity: health.CriticalSv, Subject: "shard-1/node-2", Since: &since, Why: strings.Repeat("word ", 20), Fix: "themis-cli node list"},
		{Code: "LAG", Severity: health.Warning, Subject: "shard-2", Why: "slow"},
		{Code: "ADVICE", Severity: health.Info, Subject: "cluster", Why: "could be"},
	}}
	want := `
[xx] REPLICA_DEAD shard-1/node-2 for 01:30:00
   why:  word word word word word word
         word word word word word word
         word word word word word word
         word word
   next: themis-cli node list
[!!] LAG shard-2
   why:  slow
`
	if got := Findings(r, 40, Style{}); got != strings.TrimPrefix(want, "\n") {
		t.Errorf("got\n%s", got)
	}
	if got := Findings(r, 40, Style{All: true}); !strings.Contains(got, "ADVICE") {
		t.Errorf("advice is missing:\n%s", got)
	}
}

// TestFrozenPrimaryHasNoGoodMark: a primary that gave no answer for a while is not shown as well.
func TestFrozenPrimaryHasNoGoodMark(t *testing.T) {
	for age, want := range map[int64]string{1400: "PRIMARY [!!] node-3 (not heard for 1.4 s)", 499: "PRIMARY [ok] node-3 "} {
		r := sample()
		r.Shards[1].Replicas[0].AgeMs = pointer(age)
		if box := HealthBox(r, 80, Style{}); !strings.Contains(box, want) {
			t.Errorf("%d ms: no %q in\n%s", age, want, box)
		}
	}
}
