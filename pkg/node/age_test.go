package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/themis"
)

func TestAgeEvery(t *testing.T) {
	for _, c := range []struct {
		nodes      int
		took, want time.Duration
	}{
		{3, 5 * time.Millisecond, time.Second},
		{20, 0, time.Second},
		{60, 0, 3 * time.Second},
		{3, 600 * time.Millisecond, 2400 * time.Millisecond},
		{200, 0, 10 * time.Second},
		{5000, 0, 10 * time.Second},
		{3, time.Minute, 10 * time.Second},
	} {
		if got := ageEvery(c.nodes, c.took); got != c.want {
			t.Errorf("with %d nodes, after %s: every %s, want %s", c.nodes, c.took, got, c.want)
		}
	}
}

// TestFilesOfANewerVersion: after a rollback node.json and AGE say that a newer themisd is needed, and not that the disk is to be given up.
func TestFilesOfANewerVersion(t *testing.T) {
	dir := t.TempDir()
	id, err := openIdentity(dir, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	newer := struct {
		Format  int              `json:"format"`
		Node    themis.NodeID    `json:"node_id,omitempty"`
		Storage themis.StorageID `json:"storage_id"`
		Later   []string         `json:"later"`
		Sum     string           `json:"crc32c"`
	}{Format: 1, Node: "node-1", Storage: id.Storage, Later: []string{"x"}}
	b, err := themis.Seal(&newer, &newer.Sum)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{identityName, ageName} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, ofIdentity := openIdentity(dir, "node-1")
	n := &Node{id: id}
	n.cfg.Node.DataDir = dir
	_, ofAge := n.readAge()
	for name, err := range map[string]error{identityName: ofIdentity, ageName: ofAge} {
		said, ok := errors.AsType[*themis.Error](err)
		if !ok || said.Code != themis.Unimplemented || !strings.HasPrefix(said.Detail, "UPGRADE_NEEDED") || strings.Contains(said.Fix, "--replace") {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(now, b) {
			t.Errorf("%s was touched: %v", name, err)
		}
	}
}

// TestEveryOtherMemberIsNoted: one that has not said yet how old its disk is counts among those who are asked at the next start. Else
// a member that noted only one that is down would wait for that one alone.
func TestEveryOtherMemberIsNoted(t *testing.T) {
	v := cluster.View{Nodes: map[themis.NodeID]cluster.Node{}}
	for _, id := range []themis.NodeID{"w-1", "w-2", "w-3", "data"} {
		v.Nodes[id] = cluster.Node{ID: id, GRPC: string(id) + ":1", Storage: themis.StorageID("disk of " + id), Control: &cluster.ControlMember{}}
	}
	data := v.Nodes["data"]
	data.Control = nil
	v.Nodes["data"] = data
	got := othersOf(v, "w-1", []cluster.DiskAge{{Node: "w-1", Age: 9}, {Node: "w-2", Storage: "older", Age: 7}, {Node: "data", Age: 3}})
	want := []seenDisk{{Node: "w-2", GRPC: "w-2:1", Storage: "older", Age: 7}, {Node: "w-3", GRPC: "w-3:1", Storage: "disk of w-3"}}
	if !slices.Equal(got, want) {
		t.Errorf("noted %+v, want %+v", got, want)
	}
}

// agingNode is a node with a disk and a log, and nothing else, and the cluster's map in a store.
func agingNode(t *testing.T) (n *Node, said *logLines, kv *control.Faulty, m *control.Map) {
	t.Helper()
	mem := control.NewMemory(nil)
	t.Cleanup(func() { _ = mem.Close() })
	kv, said = &control.Faulty{KV: mem}, &logLines{}
	m, err := control.NewMap(kv, "c1", control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n = &Node{id: identity{Node: "node-1", Storage: "disk-1"}, log: slog.New(slog.NewTextHandler(said, nil)), shards: &shards{}}
	n.cfg.Node.DataDir = t.TempDir()
	return n, said, kv, m
}

// TestAnAgeThatStandsIsTold: an etcd over its quota renews leases, so that the node goes on acknowledging, but takes no age.
func TestAnAgeThatStandsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, said, kv, m := agingNode(t)
		var full atomic.Bool
		kv.Before = func(_ context.Context, c control.Call) error {
			if c == control.CallTxn && full.Load() {
				return control.ErrNoSpace
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = n.age(ctx, m)
		}()
		time.Sleep(time.Minute) // virtual
		if f := n.aging.tells("/data"); f != nil || said.String() != "" {
			t.Errorf("in calm weather: %+v, %s", f, said)
		}
		full.Store(true)
		began := time.Now()
		time.Sleep(20 * time.Second) // virtual
		if f := n.aging.tells("/data"); f != nil || said.String() != "" {
			t.Errorf("after 20 s: %+v, %s", f, said)
		}
		time.Sleep(time.Minute) // virtual
		f := n.aging.tells("/data")
		if f == nil || f.Since.After(began) || began.Sub(f.Since) > ageMost || !strings.Contains(f.Why, "quota") || strings.Count(said.String(), "is not counted on") != 1 {
			t.Errorf("after 80 s: %+v, %s", f, said)
		}
		full.Store(false)
		time.Sleep(15 * time.Second) // virtual
		if f := n.aging.tells("/data"); f != nil || !strings.Contains(said.String(), "counted on again") {
			t.Errorf("mended: %+v, %s", f, said)
		}
		cancel()
		<-ended
	})
}

// TestAnAgeThatCanNotBeReadIsTold: a node that can't compare its age starts no further, and says why.
func TestAnAgeThatCanNotBeReadIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, said, kv, m := agingNode(t)
		const key = "/themis/c1/ages/node-1"
		if _, _, err := kv.Txn(t.Context(), control.Txn{Put: []control.Put{{Key: key, Value: []byte("?")}}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // virtual
		defer cancel()
		if err := n.checkAge(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("went on: %v", err)
		}
		if !strings.Contains(said.String(), "not checked yet") || !strings.Contains(said.String(), key) {
			t.Errorf("said: %q", said)
		}
		if _, _, err := kv.Txn(t.Context(), control.Txn{Delete: []string{key}}); err != nil {
			t.Fatal(err)
		}
		if err := n.checkAge(t.Context(), m); err != nil {
			t.Errorf("mended: %v", err)
		}
	})
}

// TestANodeWaitsForItsControlPlane: one that starts while the control plane has no majority waits for it, however long, and says so now and
// then; what an answer says ends it.
func TestANodeWaitsForItsControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, said, kv, _ := agingNode(t)
		away := time.Now().Add(time.Minute)
		kv.Before = func(context.Context, control.Call) error {
			if time.Now().Before(away) {
				return themis.Errorf(themis.Unreachable, "no majority")
			}
			return nil
		}
		j := &joined{ID: "c1", Name: "demo", Seen: true, Endpoints: []string{"127.0.0.1:1"}}
		err := n.checkHeld(t.Context(), kv, j)
		if themis.CodeOf(err) != themis.RefusedUnsafe || time.Now().Before(away) {
			t.Errorf("%s before it is back: %v", time.Until(away), err)
		}
		if lines := strings.Count(said.String(), "does not answer yet"); lines < 5 || lines > 7 {
			t.Errorf("said %d times in a minute: %s", lines, said)
		}
		kv.Before = func(context.Context, control.Call) error {
			return themis.Errorf(themis.PermissionDenied, "not for you")
		}
		if err := n.checkHeld(t.Context(), kv, j); themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("not allowed: %v", err)
		}
	})
}
