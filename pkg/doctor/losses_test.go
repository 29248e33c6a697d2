package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func TestLosses(t *testing.T) {
	dir := stoppedNode(t)
	if r, err := Losses([]string{dir}, "", noon); err != nil || r.Copies != 1 || r.Exit() != 0 || len(r.Rescued) != 0 {
		t.Fatalf("nothing lost: %+v %v", r, err)
	}
	shard := filepath.Join(dir, "shards", "shard-1")
	line := func(seq, op string) string {
		return `{"shard":"shard-1","seq":` + seq + `,"epoch":4,"hlc":"0000000000000001","op":"` + op + `","collection_id":1,"key":"k","placement":"AAAABw=="}` + "\n"
	}
	writeFile(t, filepath.Join(shard, "rescued", "epoch-4-seq-9-11.ndjson"), line("9", "put")+line("11", "delete")+line("10", "put"))
	writeFile(t, filepath.Join(shard, "rescued", "epoch-5-seq-20-20.ndjson"), line("20", "put")+`{"op":"pu`)
	writeFile(t, filepath.Join(shard, "rescued", "note.txt"), "not ours")
	writeFile(t, filepath.Join(shard, "wal.damaged-1772366400", "LOG"), "")
	before := snapshot(t, dir)
	r, err := Losses([]string{dir}, "", noon)
	if err != nil || r.Exit() != 1 || r.Writes != 4 || len(r.Rescued) != 2 || len(r.SetAside) != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if f := r.Rescued[0]; f.Node != "node-2" || f.Shard != "shard-1" || f.Writes != 3 || f.Puts != 2 || f.Deletes != 1 || f.First != 9 || f.Last != 11 || f.Epoch != 4 || f.Problem != "" || f.Bytes == 0 {
		t.Errorf("%+v", f)
	}
	if f := r.Rescued[1]; f.Writes != 1 || f.Problem == "" {
		t.Errorf("a file that ends in the middle: %+v", f)
	}
	if s := r.SetAside[0]; s.Part != "wal" || s.Node != "node-2" || !s.Time.Equal(noon) {
		t.Errorf("%+v", s)
	}
	if !slices.Equal(before, snapshot(t, dir)) {
		t.Error("something was changed")
	}
	if _, err := Losses([]string{dir}, "shard-9", noon); themis.CodeOf(err) != themis.InvalidArgument {
		t.Errorf("no such shard: %v", err)
	}
	if _, err := Losses([]string{t.TempDir()}, "", noon); themis.CodeOf(err) != themis.InvalidArgument {
		t.Errorf("no data directory: %v", err)
	}
}

// snapshot is every file below dir with its content, and when it was changed.
func snapshot(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, st os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		text := path + " " + st.ModTime().String()
		if st.Mode().IsRegular() {
			text += " " + string(readFile(t, path))
		}
		out = append(out, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestNothingIsChanged: a log is read as it lies, also a damaged one.
func TestNothingIsChanged(t *testing.T) {
	dir := stoppedNode(t)
	flip(t, segmentFile(dir, 7), 5000)
	change(t, segmentFile(dir, 19), func(b []byte) []byte { return append(b, b[:99]...) })
	before := snapshot(t, dir)
	if r := validate(t, dir, 0); r.Verdict != LogDamaged {
		t.Fatalf("%+v", r)
	}
	if !slices.Equal(before, snapshot(t, dir)) {
		t.Error("something was changed")
	}
}

func FuzzRescued(f *testing.F) {
	f.Add([]byte(`{"shard":"shard-1","seq":9,"epoch":4,"op":"put"}` + "\n"))
	f.Add([]byte(`{"op":"x"}`))
	f.Add([]byte("\x00"))
	path := filepath.Join(f.TempDir(), "r.ndjson")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := readRescued(path)
		if err != nil || r.Writes != r.Puts+r.Deletes || r.Writes > 0 && r.First > r.Last {
			t.Fatalf("%+v %v", r, err)
		}
	})
}

func FuzzNodeFile(f *testing.F) {
	f.Add([]byte(`{"format":1,"node_id":"node-2","storage_id":"s","joined":{"cluster_id":"c"}}`))
	f.Add([]byte(`{"joined":null}`))
	f.Add([]byte(`[`))
	dir := f.TempDir()
	shard := filepath.Join(dir, "shards", "shard-1")
	if err := os.MkdirAll(filepath.Join(shard, "wal"), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "node.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := ofShard(shard)
		if s.idErr != "" && (s.id.Node != "" || s.id.cluster() != "" || s.id.Storage != "") {
			t.Fatalf("half an identity is none: %+v", s)
		}
	})
}
