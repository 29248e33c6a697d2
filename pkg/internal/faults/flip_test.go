package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// flipText flips a bit of a file inside the text.
func flipText(t *testing.T, name, text string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(text))
	if at < 0 {
		t.Fatalf("no %q in %s", text, b)
	}
	if err := Flip(name, int64(at+len(text)-1)); err != nil {
		t.Fatal(err)
	}
}

// Row 34: one flipped bit in each kind of file of a copy, one after the other. Each is found, said, and mended from the others, whose
// documents it never changes.
func TestFlippedBits(t *testing.T) {
	h, w, _, others := atWork(t, setup{shards: 1, rf: 3}, 200)
	victim := others[0]
	shard := filepath.Join(h.disk[victim], "shards", "shard-1")
	for _, c := range []struct {
		file   string
		damage func(t *testing.T)
		says   []string // the node does, in one line
	}{
		{"log, middle", func(t *testing.T) { must(t, Flip(h.segment(t, victim, "shard-1"), 700)) }, []string{"action=quarantine", "wal is damaged"}},
		{"log, tail", func(t *testing.T) { must(t, Flip(h.segment(t, victim, "shard-1"), -20)) }, []string{"torn tail cut"}}, // blank only where the last entry had been acknowledged
		{"store", func(t *testing.T) { // its tables came with the last rebuild
			tables, err := filepath.Glob(filepath.Join(shard, "store", "*.sst"))
			if err != nil || len(tables) == 0 {
				t.Fatalf("tables: %v, %v", tables, err)
			}
			for _, name := range tables {
				must(t, Flip(name, 40))
			}
		}, []string{"store", "checksum mismatch"}},
		{"store, manifest", func(t *testing.T) {
			names, err := filepath.Glob(filepath.Join(shard, "store", "MANIFEST-*"))
			if err != nil || len(names) == 0 {
				t.Fatalf("manifests: %v, %v", names, err)
			}
			for _, name := range names {
				must(t, Flip(name, 30))
			}
		}, []string{"action=quarantine", "store is damaged"}},
		{"REPLICA.json", func(t *testing.T) { flipText(t, filepath.Join(shard, "REPLICA.json"), `"promised_epoch": 1`) }, []string{"action=quarantine", "REPLICA.json is damaged"}},
		{"LOG", func(t *testing.T) { must(t, Flip(filepath.Join(shard, "wal", "LOG"), 20)) }, []string{"action=quarantine", "wal is damaged"}},
		{"MARK", func(t *testing.T) { must(t, os.Truncate(filepath.Join(shard, "wal", "MARK"), 3)) }, []string{"replica is blank", "MARK was lost"}},
	} {
		h.kill(victim)
		must(t, os.Truncate(filepath.Join(h.dir, victim+".log"), 0))
		c.damage(t)
		h.start(victim)
		h.until(c.file+": it is found and mended", heal, func(r health.Report) bool {
			blank := c.file != "log, tail" || h.tells(t, victim, "replica is blank")
			return healthy(r) && h.tells(t, victim, c.says...) && blank == h.tells(t, victim, "msg=installed", "shard=shard-1")
		})
		w.more(t, 30, rto)
	}
	w.end(t, 300)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// join asks a node to take another in, or to give it another disk.
func (h *hosts) join(t *testing.T, through, node string, replace bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	c, err := h.pool.Admin(ctx, h.addr[through]["grpc"], themis.NodeID(through))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"addr": h.addr[node]["grpc"], "replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Act(ctx, &nodev1.ActRequest{Verb: "node.join", ArgsJson: b})
	return err
}

// Rows 34 and 36: a bit of node.json is flipped, so that the node names another storage. It does not start, and says what to do. Its
// directory is moved away, as it says, and the node comes back under its old name with nothing: it counts for nothing until an
// operator gives it the old one's place, and then it is filled from the others.
func TestWholeDiskIsReplaced(t *testing.T) {
	h, w, victim, _ := atWork(t, setup{shards: 2}, 200)
	r, err := h.report()
	must(t, err)
	h.kill(victim)
	flipText(t, filepath.Join(h.disk[victim], "node.json"), `"storage_id": "`+string(storageOf(r, victim))[:1])
	if h.comesUp(victim) {
		t.Fatal("a node started with a damaged node.json")
	}
	if !h.tells(t, victim, "node.json", "checksum") || !h.tells(t, victim, "next: ", "node join ADDR --replace") {
		t.Error("it does not say what is wrong, or what to do")
	}
	h.kill(victim)
	must(t, os.Rename(h.disk[victim], h.disk[victim]+".away"))
	h.start(victim)
	through := otherNames(h, victim)[0]
	err = h.join(t, through, victim, false)
	for deadline := time.Now().Add(rto); themis.CodeOf(err) != themis.RefusedUnsafe; err = h.join(t, through, victim, false) {
		if err == nil || time.Now().After(deadline) { // the connection to the process before is given up first
			t.Fatalf("it was taken in under the name of another disk: %v", err)
		}
		<-time.After(100 * time.Millisecond)
	}
	r = h.until("others lead", rto, func(r health.Report) bool {
		return !slices.ContainsFunc(r.Shards, func(s health.ShardReport) bool { return string(s.Primary) == victim || s.Primary == "" })
	})
	for _, s := range r.Shards {
		for _, rep := range s.Replicas {
			if string(rep.Node) == victim && rep.State == "IN_SYNC" {
				t.Errorf("an empty disk is in sync: %+v", rep)
			}
		}
	}
	for deadline := time.Now().Add(rto); ; <-time.After(100 * time.Millisecond) {
		if err = h.join(t, through, victim, true); err == nil || time.Now().After(deadline) {
			break
		}
	}
	must(t, err)
	h.until("all is whole again", heal, healthy)
	r, err = h.report()
	must(t, err)
	if storageOf(r, victim) == "" || h.disk[victim] == "" || len(r.Nodes) != 3 {
		t.Errorf("nodes: %+v", r.Nodes)
	}
	w.more(t, 100, rto)
	w.end(t, 300)
}

func storageOf(r health.Report, node string) themis.StorageID {
	for _, n := range r.Nodes {
		if string(n.ID) == node {
			return n.StorageID
		}
	}
	return ""
}

func otherNames(h *hosts, not string) []string {
	return slices.DeleteFunc(slices.Clone(h.names), func(n string) bool { return strings.EqualFold(n, not) })
}
