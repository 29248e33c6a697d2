package health

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

var rewrite = flag.Bool("rewrite", false, "write testdata and docs/reference/checks.md anew")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

func member(node themis.NodeID) cluster.Member {
	return cluster.Member{Node: node, Storage: "disk-of-" + themis.StorageID(node)}
}

// world is the input of Build while a test prepares it.
type world struct {
	view    cluster.View
	states  map[themis.NodeID]Observed
	control ControlState
}

func (w *world) build() Report { return Build(w.view, w.states, w.control, noon) }

func (w *world) state(node themis.NodeID) *NodeState { return w.states[node].State }

// copyOn is the local copy, to be changed in place.
func (w *world) copyOn(node themis.NodeID, shard themis.ShardID) *LocalReplica {
	st := w.state(node)
	i := slices.IndexFunc(st.Replicas, func(l LocalReplica) bool { return l.Shard == shard })
	return &st.Replicas[i]
}

func (w *world) follower(shard themis.ShardID, node themis.NodeID) *Follower {
	l := w.copyOn(w.view.Shards[shard].Primary.Node, shard)
	i := slices.IndexFunc(l.Followers, func(f Follower) bool { return f.Node == node })
	return &l.Followers[i]
}

func (w *world) edit(shard themis.ShardID, change func(*cluster.Shard)) {
	s := w.view.Shards[shard]
	s.Replicas, s.ISR = slices.Clone(s.Replicas), slices.Clone(s.ISR)
	change(&s)
	w.view.Shards[shard] = s
}

// fail is a node that died: the controller's verdict, no heartbeat, and an old word.
func (w *world) fail(node themis.NodeID, since time.Duration) {
	w.view.Failed[node] = cluster.Failed{Node: node, Since: ago(since), Why: "connection refused, silent for 1.2 s"}
	delete(w.view.Alive, node)
	o := w.states[node]
	o.At, o.Err, o.Since = ago(since+2*time.Second), "connection refused", ago(since+time.Second)
	w.states[node] = o
	w.silent(node, since+2*time.Second)
}

// silent is that long without an acknowledgement of the node.
func (w *world) silent(node themis.NodeID, d time.Duration) {
	for id, s := range w.view.Shards {
		if s.Primary.Node != node && slices.ContainsFunc(s.Replicas, func(r cluster.Replica) bool { return r.Node == node }) {
			w.follower(id, node).AckAgeMs = ptr(d.Milliseconds())
		}
	}
}

// healthy is three nodes, two shards of two copies each: shard-1 on node-1 and node-2, shard-2 on node-2 and node-3.
func healthy() *world {
	table, err := routing.First(2, 0)
	if err != nil {
		panic(err)
	}
	w := &world{
		view: cluster.View{
			Revision: 77, Meta: cluster.Meta{ID: "c", Name: "demo"}, Settings: cluster.Settings{Version: 3}, Routing: table,
			Nodes: map[themis.NodeID]cluster.Node{}, Alive: map[themis.NodeID]cluster.Alive{}, Failed: map[themis.NodeID]cluster.Failed{},
			Shards: map[themis.ShardID]cluster.Shard{}, Controller: cluster.Controller{Node: "node-1", Term: 1},
		},
		states:  map[themis.NodeID]Observed{},
		control: ControlState{Mode: "embedded", Leader: "node-2", Quorum: ptr(true)},
	}
	for _, id := range []themis.NodeID{"node-1", "node-2", "node-3"} {
		m := member(id)
		w.view.Nodes[id] = cluster.Node{ID: id, Storage: m.Storage, Role: cluster.RoleActive, GRPC: "10.0.0.1:50051", HTTP: "10.0.0.1:8765"}
		w.view.Alive[id] = cluster.Alive{Node: id, Storage: m.Storage, Boot: "b", Version: "1.0.0", DiskUsed: ptr(0.4)}
		w.control.Members = append(w.control.Members, ControlMember{id, Voter})
		w.states[id] = Observed{At: ago(120 * time.Millisecond), State: &NodeState{
			Node: id, Storage: m.Storage, Boot: "b", Version: "1.0.0", Role: cluster.RoleActive, UptimeMs: 60000, DiskUsed: ptr(0.4),
			CertExpires: ptr(noon.Add(300 * 24 * time.Hour)), PlainHTTP: "status",
		}}
	}
	w.shard("shard-1", "node-1", "node-2")
	w.shard("shard-2", "node-2", "node-3")
	return w
}

func (w *world) shard(id themis.ShardID, primary, follower themis.NodeID) {
	p := cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}
	w.view.Shards[id] = cluster.Shard{
		ID: id, Epoch: 3, Primary: member(primary), Boot: "b", Have: p, Want: p,
		Replicas: []cluster.Replica{{Member: member(follower), Class: cluster.Voter}, {Member: member(primary), Class: cluster.Voter}},
		ISR:      []cluster.Member{member(primary), member(follower)},
	}
	for _, node := range []themis.NodeID{primary, follower} {
		l := LocalReplica{
			Shard: id, Storage: member(node).Storage, Role: Replica, State: cluster.InSync, Epoch: 3, Seq: 9, Applied: 9, Commit: 9, LSN: 4096,
			Bytes: ptr(themis.Bytes(1000)), Documents: ptr(int64(7)),
		}
		if node == primary {
			l.Role = Primary
			l.Followers = []Follower{{
				Member: member(follower), State: cluster.InSync, Connected: true, Seq: ptr(themis.Seq(9)), Applied: ptr(themis.Seq(9)), LSN: ptr(themis.LSN(4096)),
				LagEntries: ptr(int64(0)), LagBytes: ptr(int64(0)), LagMs: ptr(int64(0)), AckAgeMs: ptr(int64(30)),
			}}
		}
		w.state(node).Replicas = append(w.state(node).Replicas, l)
	}
}

// dead is healthy with node-3 dead for 42 s: shard-2 lost a replica and is at the floor.
func dead() *world {
	w := healthy()
	w.fail("node-3", 42*time.Second)
	w.control.Members[2].State = Down
	w.edit("shard-2", func(s *cluster.Shard) { s.ISR = []cluster.Member{member("node-2")} })
	f := w.follower("shard-2", "node-3")
	f.State, f.Connected, f.AckAgeMs, f.LagMs = cluster.Lagging, false, ptr(int64(44000)), nil
	w.copyOn("node-2", "shard-2").Stalled = &Stall{Since: ago(40 * time.Second), Queued: 5}
	w.control.NotDone = map[string]string{"shard-2": "no free node: node-2 has a copy, node-3 is FAILED"}
	return w
}

// rebuilding is dead with a copy of shard-2 on its way to node-1.
func rebuilding() *world {
	w := dead()
	w.control.NotDone = nil
	w.edit("shard-2", func(s *cluster.Shard) {
		old := member("node-3")
		s.Replicas = append(s.Replicas, cluster.Replica{Member: member("node-1"), Class: cluster.Async, Replaces: &old})
	})
	l := w.copyOn("node-2", "shard-2")
	l.Followers = append(l.Followers, Follower{
		Member: member("node-1"), State: cluster.Bootstrapping, Connected: true,
		Install: &Install{Done: 350, Total: ptr(themis.Bytes(1000)), ETAMs: ptr(int64(28000)), Since: ago(15 * time.Second)},
	})
	return w
}

// critical is healthy with node-2 dead, so that shard-2 has no primary, and node-3 silent.
func critical() *world {
	w := healthy()
	w.fail("node-2", 4*time.Second)
	delete(w.states, "node-3")
	w.states["node-3"] = Observed{Err: "deadline exceeded", Since: ago(2 * time.Second)}
	w.control = ControlState{Mode: "embedded", Quorum: ptr(false), Since: ago(3 * time.Second), Members: []ControlMember{{"node-3", Down}, {"node-1", Voter}, {"node-2", Down}}}
	return w
}

func TestGolden(t *testing.T) {
	for name, w := range map[string]*world{
		"empty": {}, "healthy": healthy(), "dead": dead(), "rebuilding": rebuilding(), "critical": critical(),
	} {
		b, err := json.MarshalIndent(w.build(), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", name+".json"), string(b)+"\n")
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s is not what is made now; run with -rewrite and judge the difference. Got:\n%s", file, got)
	}
}

func TestPageIsCurrent(t *testing.T) { golden(t, "../../docs/reference/checks.md", Page()) }

// contract is every field of CONTRACT.md's example.
const contract = `{"status": "", "cluster": "", "time": "", "config_version": 1, "routing_version": 1,
 "control": {"mode": "", "leader": "", "members": [{"node": "", "state": ""}]},
 "nodes":  [{"id": "", "role": "", "state": "", "storage_id": "", "version": "", "last_heartbeat_ms": 120, "disk_used_ratio": 0.4}],
 "shards": [{"id": "", "state": "", "epoch": 3, "mode": "", "replication_factor": 2, "min_sync_replicas": 1, "readable": true, "writable": true, "crash_cost": {"entries": 0, "ms": 0}, "primary": "", "isr": [""],
             "bytes": 0, "documents": 0, "token_share": 0.25,
             "replicas": [{"node": "", "role": "", "storage_id": "", "state": "", "age_ms": 80, "rebuild": null, "seq": 9, "lsn": "", "lag_entries": 0, "lag_bytes": 0, "lag_ms": 0}]}],
 "findings": [{"code": "", "severity": "", "subject": "", "since": "", "why": "", "evidence": {}, "fix": ""}]}`

func TestContractFields(t *testing.T) {
	var want, got any
	w := dead()
	b, err := json.Marshal(w.build())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(contract), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	var compare func(path string, want, got any)
	compare = func(path string, want, got any) {
		switch want := want.(type) {
		case map[string]any:
			m, ok := got.(map[string]any)
			for k, v := range want {
				x, there := m[k]
				if !ok || !there {
					t.Errorf("%s.%s is missing", path, k)
					continue
				}
				compare(path+"."+k, v, x)
			}
		case []any:
			l, ok := got.([]any)
			if !ok || len(l) == 0 {
				t.Errorf("%s: %v, want a list", path, got)
				return
			}
			for _, x := range l {
				compare(path+"[]", want[0], x)
			}
		case nil:
		default:
			if got != nil && reflect.TypeOf(got) != reflect.TypeOf(want) {
				t.Errorf("%s: %T, want %T", path, got, want)
			}
		}
	}
	compare("", want, got)
}

// TestStatus is the sum of it all, and the exit codes.
func TestStatus(t *testing.T) {
	unknown := healthy()
	unknown.states["node-1"] = Observed{Err: "deadline exceeded"}
	noQuorum := healthy()
	noQuorum.control.Quorum = ptr(false)
	advice := healthy()
	advice.state("node-1").PlainHTTP = "full"
	advice.state("node-2").DiskUsed = ptr(0.95)
	for name, c := range map[string]struct {
		w                              *world
		status                         Status
		degraded, critical, nagiosExit int
	}{
		"healthy":                       {healthy(), Healthy, 0, 0, 0},
		"advice":                        {advice, Healthy, 0, 0, 0},
		"dead":                          {dead(), Degraded, 1, 0, 1},
		"critical":                      {critical(), Critical, 1, 1, 2},
		"no quorum":                     {noQuorum, Critical, 1, 1, 2},
		"a primary that can't be asked": {unknown, Degraded, 1, 3, 3},
		"empty":                         {&world{}, Degraded, 1, 3, 3},
	} {
		r := c.w.build()
		if r.Status != c.status || r.Exit(FailOnDegraded) != c.degraded || r.Exit(FailOnCritical) != c.critical || r.Nagios() != c.nagiosExit {
			t.Errorf("%s: %s, exits %d and %d, nagios %d; want %+v", name, r.Status, r.Exit(FailOnDegraded), r.Exit(FailOnCritical), r.Nagios(), c)
		}
	}
	if _, err := ParseFailOn("warning"); themis.CodeOf(err) != themis.InvalidArgument {
		t.Errorf("fail-on warning: %v", err)
	}
	if bar, err := ParseFailOn(""); bar != FailOnDegraded || err != nil {
		t.Errorf("fail-on by default: %s, %v", bar, err)
	}
}

func TestNatural(t *testing.T) {
	want := []string{"a", "node-1", "node-2", "node-10", "node-10a", "node-010", "shard-2/node-3", "shard-10/node-1"}
	for i := range want {
		for j := range want {
			if got := natural(want[i], want[j]); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%s against %s: %d", want[i], want[j], got)
			}
		}
	}
}

// TestBuildChangesNothing: the input is shared by others, and the report must not hold on to it.
func TestBuildChangesNothing(t *testing.T) {
	w := rebuilding()
	before, err := json.Marshal([]any{w.view.Shards, w.states, w.control})
	if err != nil {
		t.Fatal(err)
	}
	r := w.build()
	for i := range r.Shards {
		r.Shards[i].ISR[0] = "changed"
		for j := range r.Shards[i].Replicas {
			if p := r.Shards[i].Replicas[j].LagMs; p != nil {
				*p = -1
			}
		}
	}
	r.Control.Members[0].State = "changed"
	after, err := json.Marshal([]any{w.view.Shards, w.states, w.control})
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("the report shares memory with what it was made from")
	}
	for range 20 {
		if !reflect.DeepEqual(rebuilding().build(), rebuilding().build()) {
			t.Fatal("the same input gave two reports")
		}
	}
}

// braces are left where a pattern's name has no value.
func leftOpen(f Finding) bool { return strings.ContainsAny(f.Why+f.Fix, "{}") }

// plain says whether the evidence is made of JSON's own types only, so that no unit is lost on the way.
func plain(evidence map[string]any) bool {
	for _, v := range maps.All(evidence) {
		switch v.(type) {
		case string, int, int64, uint64, float64, *int64, *float64, *themis.Bytes, time.Time:
		default:
			return false
		}
	}
	return true
}

// TestNodeStateTravels: a node's own words come out of JSON as they went in.
func TestNodeStateTravels(t *testing.T) {
	want := *rebuilding().state("node-2")
	want.Control = &LocalControl{Leader: true, LeaderID: "node-2", HasQuorum: true}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got NodeState
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
