package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// writeAlone appends writes to the log of a stopped copy, as its primary does that nobody hears.
func (f *fleet) writeAlone(node string, id themis.ShardID, keys ...string) {
	f.t.Helper()
	dir := f.path(node, "shards", string(id))
	own, err := replication.Owner(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	l, _, err := wal.Open(filepath.Join(dir, "wal"), wal.Options{Cluster: own.Cluster, Shard: own.Shard, Storage: own.Storage})
	if err == nil {
		err = l.SetEpoch(l.Last().Epoch)
	}
	for _, k := range keys {
		var a *wal.Append
		if err == nil {
			a, err = l.Begin(themis.KindWrite, themis.Tags{}, themis.AppendOps(nil, []themis.Op{{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Key: k, Value: []byte(`{"alone":true}`)}}), 1)
		}
		if err == nil {
			err = a.Wait()
		}
	}
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// damageLog flips a bit of an entry that is not the last.
func (f *fleet) damageLog(node string, id themis.ShardID) {
	f.t.Helper()
	name := f.path(node, "shards", string(id), "wal", "00000000000000000001")
	b, err := os.ReadFile(name)
	if err != nil {
		f.t.Fatal(err)
	}
	at := bytes.Index(b, []byte(`{"v":1}`))
	if at < 0 || bytes.Count(b, []byte(`{"v":1}`)) < 2 {
		f.t.Fatalf("too few writes in %s", name)
	}
	b[at] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// halfLed is a cluster of four shards on two nodes of which each leads two. Who is slow at first leads fewer, and is given another try.
func halfLed(t *testing.T) (f *fleet, led, others []themis.ShardID) {
	t.Helper()
	for range 5 {
		f, led, others = newFleet(t, "node-1", "node-2", "node-3"), nil, nil
		f.foundOf(initArgs{Name: "demo", Shards: 4, RF: 2, K: 1, Redundancy: "MIRROR", Mode: themis.Async}, "node-1", "node-2")
		for _, s := range f.until("node-1", "HEALTHY", isHealthy).Shards {
			if s.Primary == "node-2" {
				led = append(led, s.ID)
			} else {
				others = append(others, s.ID)
			}
		}
		if len(led) == 2 {
			return f, led, others
		}
		t.Logf("node-2 leads %v, not %v", led, others)
		for _, n := range []string{"node-1", "node-2", "node-3"} {
			f.stop(n)
		}
	}
	t.Fatal("node-2 never led two of four shards")
	return nil, nil, nil
}

// A node comes back whose copies were replaced. An operator lets them go: what the primary of one had acknowledged alone is saved first,
// line by line; one in use and one whose log can't be read are refused; none is no error.
func TestRemoveCopy(t *testing.T) {
	t.Parallel()
	f, led, others := halfLed(t)
	for i := range 60 {
		if err := f.put("node-1", fmt.Sprint("k", i), `{"v":1}`); err != nil {
			t.Fatal(err)
		}
	}
	alone, emptied, plain, damaged := led[0], led[1], others[0], others[1]
	f.join("node-1", "node-3", joinArgs{Control: "no"})
	f.stop("node-2")
	f.until("node-1", "all copies elsewhere", func(r health.Report) bool {
		return !slices.ContainsFunc(r.Shards, func(s health.ShardReport) bool {
			return len(s.ISR) != 2 || slices.Contains(s.ISR, "node-2") || s.Primary == "" || s.Primary == "node-2"
		})
	})
	f.writeAlone("node-2", alone, "first", "second")
	f.writeAlone("node-2", emptied, "third")
	f.damageLog("node-2", damaged)
	f.start("node-2")
	f.until("node-1", "health tells of the copy and of the command", func(r health.Report) bool {
		return slices.ContainsFunc(r.Findings, func(x health.Finding) bool {
			return x.Code == health.UnusedCopyKept && x.Subject == string(alone)+"/node-2" && x.Fix == fmt.Sprintf("themis-cli shard remove-copy %s node-2 --dry-run", alone)
		})
	})

	const verb = "shard.remove-copy"
	in := f.path("node-2", "shards", string(alone))
	var out removeCopyResult
	refused(t, f.act("node-3", verb, removeCopyArgs{Shard: alone, Node: "node-1"}, nil), themis.RefusedUnsafe, "it is in the map")
	refused(t, f.act("node-3", verb, removeCopyArgs{Shard: "shard-9", Node: "node-2"}, nil), themis.NotFound, "no shard")
	refused(t, f.act("node-3", verb, removeCopyArgs{Shard: alone, Node: "node-9"}, nil), themis.NotFound, "no node")
	refused(t, f.act("node-3", verb, removeCopyArgs{Shard: damaged, Node: "node-2"}, nil), themis.RefusedUnsafe, "its log is damaged")
	if err := f.try("node-3", verb, removeCopyArgs{Shard: alone, Node: "node-2"}, &out); err != nil {
		t.Fatal(err)
	}
	if !out.Changed || !out.DryRun || len(out.Steps) != 2 || !strings.Contains(out.Steps[0], "are saved in "+filepath.Join(in, "rescued")) || out.Bytes < 1000 {
		t.Errorf("dry run: %+v", out)
	}
	if !f.has("node-2", "shards", string(alone), "wal") || f.has("node-2", "shards", string(alone), "rescued") {
		t.Fatal("a dry run changed something")
	}

	out = removeCopyResult{}
	if err := f.act("node-1", verb, removeCopyArgs{Shard: alone, Node: "node-2"}, &out); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out.Rescued)
	if err != nil || out.Writes != 2 || !strings.HasPrefix(out.Rescued, filepath.Join(in, "rescued", "acknowledged-epoch-1-")) {
		t.Fatalf("%+v: %v", out, err)
	}
	if lines := strings.Split(string(b), "\n"); len(lines) != 3 || !strings.Contains(lines[0], `"key":"first"`) || !strings.Contains(lines[1], `"key":"second"`) || !strings.Contains(lines[1], `{"alone":true}`) {
		t.Errorf("rescued: %s", b)
	}
	left, err := os.ReadDir(in)
	if err != nil || len(left) != 2 || left[0].Name() != "REPLICA.json" || left[1].Name() != "rescued" {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
	f.untilEvent("node-1", "the audit trail has it", func(e cluster.Event) bool {
		return e.Action == "remove_copy" && e.Subject == string(alone)+"/node-2" && e.Outcome == "done" && e.Actor.Kind == "operator" && e.Actor.ID == "operator" && strings.Contains(e.Reason, out.Rescued)
	})
	f.untilEvent("node-1", "and what was refused", func(e cluster.Event) bool {
		return e.Action == "remove_copy" && e.Subject == string(damaged)+"/node-2" && e.Outcome == "refused" && strings.Contains(e.Reason, "damaged")
	})

	rescued := out.Rescued
	out = removeCopyResult{}
	if err := f.act("node-1", verb, removeCopyArgs{Shard: alone, Node: "node-2"}, &out); err != nil || out.Changed || !strings.Contains(out.Note, "rescued/ holds 1 files") {
		t.Errorf("once more: %+v, %v", out, err)
	}
	if err := f.act("node-1", verb, removeCopyArgs{Shard: plain, Node: "node-2"}, &out); err != nil || !out.Changed || out.Rescued != "" || f.has("node-2", "shards", string(plain)) {
		t.Errorf("a copy with nothing of its own: %+v, %v", out, err)
	}
	if err := f.act("node-1", verb, removeCopyArgs{Shard: plain, Node: "node-2"}, &out); err != nil || out.Changed {
		t.Errorf("none: %+v, %v", out, err)
	}
	if !f.has("node-2", "shards", string(damaged), "wal") || f.has("node-2", removingDir, string(alone)) {
		t.Error("the damaged copy is gone, or the other is not")
	}
	if err := f.act("node-1", verb, removeCopyArgs{Shard: emptied, Node: "node-2"}, &out); err != nil || out.Writes != 1 || os.Remove(out.Rescued) != nil {
		t.Errorf("%+v, %v", out, err)
	}
	f.stop("node-2")
	refused(t, f.act("node-1", verb, removeCopyArgs{Shard: damaged, Node: "node-2"}, nil), themis.RefusedUnsafe, "the node can't be asked")
	f.keepUnused = 400 * time.Millisecond
	f.start("node-2")
	f.eventually("what is left goes when its rescued writes were moved out", func() bool { return !f.has("node-2", "shards", string(emptied)) })
	f.until("node-1", "what was rescued is told until it is moved out", func(r health.Report) bool {
		return slices.ContainsFunc(r.Findings, func(x health.Finding) bool {
			return x.Code == health.UnusedCopyKept && x.Subject == string(alone)+"/node-2" && strings.Contains(x.Why, "rescued/ holds 1 files")
		})
	})
	f.stop("node-3")
	f.until("node-1", "a new copy is made there", func(r health.Report) bool {
		s, _ := r.Shard(alone)
		return slices.Contains(s.ISR, "node-2") && slices.ContainsFunc(r.Findings, func(x health.Finding) bool {
			return x.Code == health.RescuedEntries && x.Subject == string(alone)+"/node-2"
		})
	})
	if again, err := os.ReadFile(filepath.Join(in, "rescued", filepath.Base(rescued))); err != nil || !bytes.Equal(again, b) {
		t.Errorf("what was rescued: %s, %v", again, err)
	}
}

// The log is the last to be taken away, what was rescued stays.
func TestPartsOfACopyAreMoved(t *testing.T) {
	dir := t.TempDir()
	if !emptied(t.TempDir()) {
		t.Error("a directory without log and store holds a copy")
	}
	for _, name := range []string{"store/MANIFEST", "wal/1", "rescued/a.ndjson", "REPLICA.json"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700), os.WriteFile(filepath.Join(dir, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	to := t.TempDir()
	if err := os.MkdirAll(filepath.Join(to, "wal", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := moveParts(dir, to); err == nil || emptied(dir) {
		t.Errorf("broken off at the log: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "store")); err == nil {
		t.Error("the log is not the last to go")
	}
	if err := moveParts(dir, t.TempDir()); err != nil || !emptied(dir) || holdsRescued(dir) == "" {
		t.Errorf("the rest: %v", err)
	}
}
