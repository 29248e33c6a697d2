package controller

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

var rewrite = flag.Bool("rewrite", false, "write the expected answers in testdata anew")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// TestCases runs the pictures in testdata: a world in a few lines, then the actions that Step must take, one a line.
//
//	node ID [role= rack= dc= storage= beat=STORAGE|none disk= draining]   a member; answers its probes unless a probe line says else
//	     [full=AGE free=MB reserve=MB has=SHARD:MB,…]                     its disk: full since then, and what its heartbeat says of it
//	stopping ID [SHARD:EPOCH …]                                           it is on its way out; reigns that it can hand over
//	probe ID [ok=AGE|never failing=AGE failures=N refused boot= cut why= unfit=SHARD resigned=SHARD:EPOCH] ages are before now
//	failed ID for=AGE · gone ID for=AGE                                   the verdict is known here; the heartbeat is missing
//	shard ID epoch= primary= mode= k= rf= voters=a,b isr=a,b [boot= joining=c[>b] spares=d want-rf=]
//	attempt SHARD [running failed=N ended=AGE] · caught SHARD NODE SEQ · since AGE · self ID · paused WORDS · leave ID
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata: %d files, %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		for part := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
			given, want, _ := strings.Cut(part, "----")
			if !strings.Contains(part, "----") {
				t.Fatalf("%s: no ---- in\n%s", file, part)
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(given, "# "), "\n")
			got := ""
			t.Run(filepath.Base(file)+"/"+name, func(t *testing.T) {
				for _, a := range Step(parse(t, given), noon, Default()) {
					got += a.String() + details(a) + "\n"
				}
				if got == "" {
					got = "nothing\n"
				}
				if strings.TrimSpace(got) != strings.TrimSpace(want) && !*rewrite {
					t.Errorf("%s\ngot:\n%swant:\n%s", given, got, want)
				}
			})
			fmt.Fprintf(&out, "%s----\n%s\n", given, got)
		}
		if *rewrite {
			if err := os.WriteFile(file, append(bytes.TrimSpace(out.Bytes()), '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// details are what matters and isn't in an action's words.
func details(a Action) string {
	switch a := a.(type) {
	case Elect:
		return fmt.Sprintf(" load=%v skip=%v", a.Load, slices.Sorted(maps.Keys(a.Skip)))
	case Join:
		return fmt.Sprintf(" replaces=%v", a.Replica.Replaces)
	case Enlist:
		return fmt.Sprintf(" replaces=%v", a.Replaces)
	}
	return ""
}

// line is the words of one line: name, arguments, and key=value pairs; a bare word behind the arguments is a flag.
type line struct {
	t    *testing.T
	args []string
	kv   map[string]string
}

func (l line) age(key, def string) time.Time {
	v, ok := l.kv[key]
	if !ok {
		v = def
	}
	if v == "never" {
		return time.Time{}
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		l.t.Fatalf("%v %s: %v", l.args, key, err)
	}
	return noon.Add(-d)
}

func (l line) num(key string, def int) int {
	v, ok := l.kv[key]
	if !ok {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		l.t.Fatalf("%v %s: %v", l.args, key, err)
	}
	return n
}

func (l line) str(key, def string) string {
	if v, ok := l.kv[key]; ok {
		return v
	}
	return def
}

func (l line) has(key string) bool { _, ok := l.kv[key]; return ok }

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func boot(node string) themis.BootID { return themis.BootID("boot-of-" + node) }

func storage(node string) themis.StorageID { return themis.StorageID("disk-of-" + node) }

func parse(t *testing.T, text string) World {
	t.Helper()
	w := World{
		Probes: map[themis.NodeID]Probe{}, Since: noon.Add(-time.Minute), AliveGone: map[themis.NodeID]time.Time{}, FullSince: map[themis.NodeID]time.Time{}, FailedSince: map[themis.NodeID]time.Time{},
		Elections: map[themis.ShardID]Attempt{}, Caught: map[themis.ShardID]map[themis.NodeID]themis.Seq{},
		View: cluster.View{
			Meta: cluster.Meta{ID: "c"}, Nodes: map[themis.NodeID]cluster.Node{}, Alive: map[themis.NodeID]cluster.Alive{},
			Failed: map[themis.NodeID]cluster.Failed{}, Shards: map[themis.ShardID]cluster.Shard{},
		},
	}
	for row := range strings.SplitSeq(text, "\n") {
		f := strings.Fields(row)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		l := line{t: t, args: f, kv: map[string]string{}}
		for _, x := range f[1:] {
			k, v, _ := strings.Cut(x, "=")
			l.kv[k] = v
		}
		parseLine(&w, l)
	}
	return w
}

func parseLine(w *World, l line) {
	arg := func() string { return l.args[1] }
	node := func() themis.NodeID { return themis.NodeID(arg()) }
	switch l.args[0] {
	case "node":
		parseNode(w, l, arg())
	case "probe":
		p := w.Probes[node()]
		p.LastOK = l.age("ok", "200ms")
		p.Boot = themis.BootID(l.str("boot", string(p.Boot)))
		p.Failures, p.Refused, p.ControlCut, p.Why = l.num("failures", 0), l.has("refused"), l.has("cut"), l.str("why", "")
		p.FailingSince = l.age("failing", "never")
		p.Watched = l.age("watched", "never")
		for _, id := range list(l.str("unfit", "")) {
			p.Unfit = map[themis.ShardID]string{themis.ShardID(id): "fsync failed"}
		}
		for _, v := range list(l.str("resigned", "")) {
			id, epoch, _ := strings.Cut(v, ":")
			n, err := strconv.Atoi(epoch)
			if err != nil {
				l.t.Fatal(err)
			}
			p.Resigned = map[themis.ShardID]themis.Epoch{themis.ShardID(id): themis.Epoch(n)}
		}
		w.Probes[node()] = p
	case "stopping":
		a := w.View.Alive[node()]
		a.Stopping = &cluster.Stopping{Ready: map[themis.ShardID]themis.Epoch{}}
		for _, v := range l.args[2:] {
			id, epoch, _ := strings.Cut(v, ":")
			n, err := strconv.Atoi(epoch)
			if err != nil {
				l.t.Fatal(err)
			}
			a.Stopping.Ready[themis.ShardID(id)] = themis.Epoch(n)
		}
		w.View.Alive[node()] = a
	case "failed":
		w.View.Failed[node()] = cluster.Failed{Node: node(), Since: noon.Add(time.Hour), Why: "silent for 3.0 s"} // by a clock that was ahead
		w.FailedSince[node()] = l.age("for", "0s")
	case "gone":
		w.AliveGone[node()] = l.age("for", "0s")
		delete(w.View.Alive, node())
	case "leave":
		delete(w.View.Nodes, node())
		delete(w.View.Alive, node())
	case "shard":
		parseShard(w, l, themis.ShardID(arg()))
	case "attempt":
		w.Elections[themis.ShardID(arg())] = Attempt{Running: l.has("running"), Failed: l.num("failed", 0), Ended: l.age("ended", "never")}
	case "caught":
		n, err := strconv.Atoi(l.args[3])
		if err != nil {
			l.t.Fatal(err)
		}
		id := themis.ShardID(arg())
		if w.Caught[id] == nil {
			w.Caught[id] = map[themis.NodeID]themis.Seq{}
		}
		w.Caught[id][themis.NodeID(l.args[2])] = themis.Seq(n)
	case "since":
		d, err := time.ParseDuration(arg())
		if err != nil {
			l.t.Fatal(err)
		}
		w.Since = noon.Add(-d)
	case "self":
		w.Self = node()
	case "paused":
		w.Paused = strings.Join(l.args[1:], " ")
	default:
		l.t.Fatalf("unknown line %q", strings.Join(l.args, " "))
	}
}

func parseNode(w *World, l line, name string) {
	id := themis.NodeID(name)
	disk := themis.StorageID(l.str("storage", string(storage(name))))
	w.View.Nodes[id] = cluster.Node{
		ID: id, Storage: disk, Role: cluster.Role(l.str("role", "active")), Rack: l.str("rack", ""), Datacenter: l.str("dc", ""), Draining: l.has("draining"),
	}
	if beat := l.str("beat", string(disk)); beat != "none" {
		a := cluster.Alive{Node: id, Storage: themis.StorageID(beat), Boot: themis.BootID(l.str("alive-boot", string(boot(name))))}
		if v, ok := l.kv["disk"]; ok {
			ratio, err := strconv.ParseFloat(v, 64)
			if err != nil {
				l.t.Fatal(err)
			}
			a.DiskUsed = &ratio
		}
		if l.has("full") {
			a.DiskFull = true
			w.FullSince[id] = l.age("full", "")
		}
		a.DiskFree, a.DiskReserve = themis.Bytes(l.num("free", 0))<<20, themis.Bytes(l.num("reserve", 0))<<20
		for _, v := range list(l.str("has", "")) {
			if a.Copies == nil {
				a.Copies = map[themis.ShardID]themis.Bytes{}
			}
			shard, mb, _ := strings.Cut(v, ":")
			n, err := strconv.Atoi(mb)
			if err != nil {
				l.t.Fatal(err)
			}
			a.Copies[themis.ShardID(shard)] = themis.Bytes(n) << 20
		}
		w.View.Alive[id] = a
	}
	w.Probes[id] = Probe{Node: id, Boot: boot(name), Storage: disk, LastOK: noon.Add(-200 * time.Millisecond)}
}

func parseShard(w *World, l line, id themis.ShardID) {
	policy := cluster.Policy{Mode: themis.Mode(l.str("mode", "sync")), K: l.num("k", 1), RF: l.num("rf", 2)}
	s := cluster.Shard{ID: id, Epoch: themis.Epoch(l.num("epoch", 1)), Have: policy, Want: policy}
	s.Want.RF = l.num("want-rf", policy.RF)
	member := func(name string) cluster.Member {
		return cluster.Member{Node: themis.NodeID(name), Storage: storage(name)}
	}
	replica := func(name string, c cluster.Class) {
		n := w.View.Nodes[themis.NodeID(name)]
		s.Replicas = append(s.Replicas, cluster.Replica{Member: member(name), Class: c, Rack: n.Rack, Datacenter: n.Datacenter})
	}
	for _, v := range list(l.str("voters", "node-1,node-2")) {
		replica(v, cluster.Voter)
	}
	for _, v := range list(l.str("spares", "")) {
		replica(v, cluster.Spare)
	}
	for _, v := range list(l.str("joining", "")) {
		name, old, replaces := strings.Cut(v, ">")
		replica(name, cluster.Async)
		if replaces {
			m := member(old)
			s.Replicas[len(s.Replicas)-1].Replaces = &m
		}
	}
	if p := l.str("primary", "node-1"); p != "none" && s.Epoch > 0 {
		s.Primary, s.Boot = member(p), themis.BootID(l.str("boot", string(boot(p))))
	}
	isr := l.str("isr", l.str("voters", "node-1,node-2"))
	if s.Epoch == 0 {
		isr = ""
	}
	for _, m := range list(isr) {
		s.ISR = append(s.ISR, member(m))
	}
	w.View.Shards[id] = s
}
