package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// copyDir copies a data directory as cp -r would while the node runs; what vanishes meanwhile is left out.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it is gone
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // it is gone
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// second starts another process of the node with other settings, and returns why it ended and what it logged.
func (f *fleet) second(name string, more map[string]string) (said string, why error) {
	f.t.Helper()
	first, lines := f.nodes[name], f.said[name]
	defer func() {
		if f.nodes[name], f.said[name] = first, lines; first == nil {
			delete(f.nodes, name)
		}
	}()
	err := f.tryStart(name, more)
	log := f.said[name]
	if err != nil {
		return log.String(), err
	}
	n := f.nodes[name]
	select {
	case err = <-n.done:
	case <-time.After(15 * time.Second):
		n.stop()
		<-n.done
		err = nil
	}
	return log.String(), err
}

// metric is the sum of a metric's samples whose labels have that text.
func (f *fleet) metric(node, name, labels string) (sum float64) {
	f.t.Helper()
	resp, err := http.Get("http://" + f.nodes[node].addr.Metrics + "/metrics")
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		at := strings.LastIndexByte(l, ' ')
		if at < 0 || !strings.HasPrefix(l, name) || !strings.Contains(l[:at], labels) {
			continue
		}
		if rest := l[len(name):at]; rest != "" && rest[0] != '{' {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(l[at+1:], &v); err == nil {
			sum += v
		}
	}
	return sum
}

// untilEvent waits for a line of the audit trail.
func (f *fleet) untilEvent(node, what string, ok func(cluster.Event) bool) {
	f.t.Helper()
	f.until(node, what, func(health.Report) bool {
		events, err := f.admin(node).ListEvents(f.t.Context(), &nodev1.ListEventsRequest{})
		if err != nil {
			return false
		}
		for _, b := range events.GetEventsJson() {
			var e cluster.Event
			if json.Unmarshal(b, &e) == nil && ok(e) {
				return true
			}
		}
		return false
	})
}

// Row 38: a copy of a data directory is started elsewhere while the node runs. The second process is refused, both say so, and the
// first goes on; for a node with documents only as for a member of the control plane, which must not even begin to vote twice.
func TestTwoProcessesOfOneIdentity(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2")
	a := mirrored
	a.ControlNodes = 1
	f.found(a)
	f.until("node-1", "HEALTHY", isHealthy)
	for _, name := range []string{"node-1", "node-2"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(f.dir, "copy-of-"+name)
			copyDir(t, f.path(name), dir)
			said, err := f.second(name, map[string]string{
				"node.data_dir": dir, "node.grpc_listen": "127.0.0.1:0", "control.peer_listen": loopback.Addr(t), "control.client_listen": loopback.Addr(t),
			})
			refused(t, err, themis.RefusedUnsafe, "another process runs as "+name+" with the same disk")
			for _, text := range []string{f.nodes[name].addr.GRPC, fmt.Sprint(os.Getpid())} {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%v: lacks %s", err, text)
				}
			}
			if strings.Contains(said, "controller") && strings.Contains(said, "term") {
				t.Errorf("the second process began to work:\n%s", said)
			}
			if !strings.Contains(f.said[name].String(), "another process was started with this node's identity") {
				t.Error("the first process is silent")
			}
			if n := f.metric(name, "themis_second_processes_total", ""); n < 1 {
				t.Errorf("counted %v", n)
			}
			f.untilEvent("node-1", "the audit trail has it", func(e cluster.Event) bool {
				return e.Action == "second_process" && e.Subject == name && e.Outcome == "refused"
			})
			if err := f.put("node-1", "after-"+name, `{}`); err != nil {
				t.Errorf("the first does not go on: %v", err)
			}
		})
	}
	f.until("node-1", "HEALTHY", isHealthy)

	// The disk of a node that is gone may be moved: its old address refuses.
	dir := filepath.Join(f.dir, "moved")
	f.stop("node-2")
	if err := os.Rename(f.path("node-2"), dir); err != nil {
		t.Fatal(err)
	}
	if err := f.tryStart("node-2", map[string]string{"node.data_dir": dir}); err != nil {
		t.Fatal(err)
	}
	f.until("node-1", "HEALTHY after a move", isHealthy)
}

// A data directory of another cluster is refused at the start, with both names; so is a copy of another cluster's shard.
func TestDirectoryOfAnotherCluster(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1")
	f.found(initArgs{Name: "demo", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync})
	leads := func(r health.Report) bool { return len(r.Shards) == 1 && r.Shards[0].Primary == "node-1" }
	f.until("node-1", "a primary", leads)
	f.stop("node-1")

	prod, err := pki.NewCA(pki.CAOptions{Cluster: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	issued, err := prod.Issue(pki.Request{Node: "node-1", Datacenter: "dc1", Capabilities: []string{pki.Admin}, Loopback: true})
	files := pki.FilesIn(t.TempDir(), "node-1")
	if err == nil {
		err = issued.Save(files)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.second("node-1", map[string]string{"pki.cert": files.Cert, "pki.key": files.Key, "pki.ca": files.CA})
	refused(t, err, themis.RefusedUnsafe, "belongs to cluster demo (")
	var told *themis.Error
	if !errors.As(err, &told) || !strings.Contains(told.Error(), "the certificate is of cluster prod") || told.Fix != "start it with a certificate of cluster demo, or give the node an empty node.data_dir" {
		t.Errorf("%v, %+v", err, told)
	}

	g := newFleet(t, "node-1") // of the same name, but another cluster
	g.found(initArgs{Name: "demo", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync})
	g.until("node-1", "a primary", leads)
	g.stop("node-1")
	if err := os.RemoveAll(f.path("node-1", "shards")); err != nil {
		t.Fatal(err)
	}
	copyDir(t, g.path("node-1", "shards"), f.path("node-1", "shards"))
	f.start("node-1")
	f.untilEvent("node-1", "the foreign copy is refused", func(e cluster.Event) bool {
		return e.Action == "open_copy" && e.Outcome == "failed" && strings.Contains(e.Reason, "belongs to shard-1 of cluster")
	})
}

// A member that runs takes a part in the control plane, under writes and without leaving first: 1, 2, 3 members; then the one that
// was alone dies. A start that fails leaves the node as it was.
func TestAMemberThatRunsIsPromoted(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.found(initArgs{Name: "demo", Shards: 2, RF: 3, K: 1, ControlNodes: 1, Redundancy: "MIRROR", Mode: themis.Sync})
	f.until("node-1", "HEALTHY", isHealthy)
	addr := func(n string) string { return f.nodes[n].addr.GRPC }

	taken, err := net.Listen("tcp", f.peer["node-2/peer"])
	if err != nil {
		t.Fatal(err)
	}
	if err := f.act("node-1", "node.join", joinArgs{Addr: addr("node-2"), Control: "yes"}, nil); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("its port is taken: %v", err)
	}
	_ = taken.Close()
	if got := f.endpointsIn("node-2"); len(got) != 1 {
		t.Errorf("endpoints after the start that failed: %v", got)
	}
	f.until("node-2", "HEALTHY after a start that failed", isHealthy)

	halt, wrote := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-halt:
				wrote <- nil
				return
			default:
			}
			if err := f.put("node-2", fmt.Sprint("k", i%20), fmt.Sprintf(`{"i":%d}`, i)); err != nil {
				wrote <- err
				return
			}
		}
	}()
	if two := f.join("node-3", "node-2", joinArgs{Control: "yes"}); !two.Changed || !two.Control || !strings.Contains(two.Note, "takes a part in the control plane now; the control plane has 2 members") {
		t.Errorf("%+v", two)
	}
	if three := f.join("node-1", "node-3", joinArgs{Control: "yes"}); !three.Changed || len(three.ControlNodes) != 3 {
		t.Errorf("%+v", three)
	}
	if again := f.join("node-1", "node-3", joinArgs{Control: "yes"}); again.Changed || !again.Control {
		t.Errorf("%+v", again)
	}
	f.until("node-1", "three voters", voters(3))
	close(halt)
	if err := <-wrote; err != nil {
		t.Errorf("writes meanwhile: %v", err)
	}
	f.until("node-2", "each asks its own member", func(health.Report) bool { return len(f.endpointsIn("node-2")) == 3 })

	f.stop("node-2") // remembers what it is
	f.start("node-2")
	f.until("node-2", "three voters after a restart", voters(3))
	f.stop("node-1")
	for i := range 10 {
		if err := f.put("node-3", fmt.Sprint("late", i), `{}`); err != nil {
			t.Fatalf("without the first member: %v", err)
		}
	}
	f.until("node-3", "two voters decide", func(r health.Report) bool {
		return r.Control.Quorum != nil && *r.Control.Quorum && r.Control.Controller != "node-1" && r.Control.Controller != ""
	})
}

// Every node gets a new key, one by one, under writes: each record comes to carry it, and when the primary dies the others' ballots
// count. The keys before count for a while and no longer.
func TestRenewedKeysElect(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.found(initArgs{Name: "demo", Shards: 1, RF: 3, K: 1, Redundancy: "MIRROR", Mode: themis.SemiSync})
	f.until("node-1", "HEALTHY", isHealthy)
	halt, wrote := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-halt:
				wrote <- nil
				return
			default:
			}
			if err := f.put("node-2", fmt.Sprint("k", i%20), fmt.Sprintf(`{"i":%d}`, i)); err != nil {
				wrote <- err
				return
			}
		}
	}()
	for _, name := range []string{"node-1", "node-2", "node-3"} {
		f.issue(f.ca, pki.Request{Node: themis.NodeID(name), Datacenter: "dc1", Capabilities: []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}, Loopback: true}, name)
		src, err := pki.Open(pki.FilesIn(f.path("pki"), name), pki.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f.until("node-1", name+"'s new key in its record", func(health.Report) bool {
			keys := f.record("node-1", name).Keys
			return len(keys) == 2 && bytes.Equal(keys[1], src.PublicKey())
		})
	}
	close(halt)
	if err := <-wrote; err != nil {
		t.Errorf("writes meanwhile: %v", err)
	}
	f.untilEvent("node-1", "the audit trail has the keys", func(e cluster.Event) bool {
		return e.Action == "register_key" && e.Subject == "node-3" && e.Outcome == "done"
	})
	r := f.until("node-1", "HEALTHY", isHealthy)
	victim := string(r.Shards[0].Primary)
	f.stop(victim)
	var via string
	for via = range f.nodes {
		break
	}
	f.until(via, "elected by ballots of new keys", func(r health.Report) bool {
		return len(r.Shards) == 1 && r.Shards[0].Primary != "" && string(r.Shards[0].Primary) != victim
	})
	if err := f.put(via, "after", `{}`); err != nil {
		t.Fatal(err)
	}
}

// record is a member's record, as a node's map has it.
func (f *fleet) record(via, name string) (out cluster.Node) {
	m, err := f.admin(via).GetMap(f.t.Context(), &nodev1.GetMapRequest{})
	var cm ClientMap
	if err == nil {
		err = json.Unmarshal(m.GetMapJson(), &cm)
	}
	if err != nil {
		f.t.Log(err)
	}
	for _, x := range cm.Members {
		if string(x.ID) == name {
			out = x
		}
	}
	return out
}
