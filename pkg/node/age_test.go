package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
