package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bigEntry = 200 << 10 // six fill a segment of 1 MiB

func logOptions() wal.Options {
	return wal.Options{Cluster: "c-1", Shard: "shard-1", Storage: "disk-a", SegmentBytes: 1 << 20}
}

func openLog(t *testing.T, dir string, o wal.Options) *wal.Log {
	t.Helper()
	l, _, err := wal.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// write appends n entries of one document each.
func write(t *testing.T, l *wal.Log, n, size int) {
	t.Helper()
	for range n {
		op := themis.Op{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Placement: themis.Token(7).Placement(), Key: fmt.Sprint("k", l.Last().Seq), Value: make([]byte, size)}
		a, err := l.Begin(themis.KindWrite, themis.Tags{}, themis.AppendOps(nil, []themis.Op{op}), 1)
		if err == nil {
			err = a.Wait()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func reign(t *testing.T, l *wal.Log, e themis.Epoch) {
	t.Helper()
	if err := l.SetEpoch(e); err != nil {
		t.Fatal(err)
	}
}

// stoppedNode makes the data directory of a stopped node with one copy: 12 entries of epoch 1 and 11 of epoch 2 in segments of six.
func stoppedNode(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l := openLog(t, logDir(dir), logOptions())
	reign(t, l, 1)
	write(t, l, 12, bigEntry)
	reign(t, l, 2)
	write(t, l, 11, bigEntry)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "node.json"), `{"format":1,"node_id":"node-2","storage_id":"disk-a","joined":{"cluster_id":"c-1","cluster_name":"demo"}}`)
	return dir
}

func logDir(node string) string { return filepath.Join(node, "shards", "shard-1", "wal") }

func segmentFile(node string, first int) string {
	return filepath.Join(logDir(node), fmt.Sprintf("%020d", first))
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// change edits a file in place.
func change(t *testing.T, path string, edit func(b []byte) []byte) {
	t.Helper()
	if err := os.WriteFile(path, edit(readFile(t, path)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// copyOf is another directory with the same files.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "node")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func atNoon() time.Time { return noon }
