package replication

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func rescuedEntry(key string) *themis.Entry {
	return &themis.Entry{Kind: themis.KindWrite, Seq: 7, Epoch: 3, Payload: themis.AppendOps(nil, []themis.Op{{Code: themis.OpPut, Collection: 1, Key: key, Value: []byte("{}")}})}
}

// Once finish has answered, what was rescued goes from the log: so by then it is on disk, whole and under its name.
func TestWhatIsRescuedIsSynced(t *testing.T) {
	dir := t.TempDir()
	var synced []string
	x := rescueFile{dir: dir, shard: "shard-1", sync: func(f *os.File) error {
		name, _ := filepath.Rel(dir, f.Name())
		info, err := f.Stat()
		if err == nil && !info.IsDir() {
			var b []byte
			if b, err = os.ReadFile(f.Name()); bytes.Count(b, []byte("\n")) != 2 {
				t.Errorf("synced before it was whole: %s", b)
			}
		}
		if names, _ := filepath.Glob(filepath.Join(f.Name(), "unconfirmed-*")); len(names) > 0 {
			name += " with the file's name"
		}
		synced = append(synced, name)
		return err
	}}
	defer x.abandon()
	err := errors.Join(x.add(rescuedEntry("one")), x.add(rescuedEntry("two")))
	if err != nil {
		t.Fatal(err)
	}
	name, n, err := x.finish(3, 7, 7)
	if err != nil || n != 2 {
		t.Fatalf("%s, %d writes: %v", name, n, err)
	}
	if want := []string{".", "rescued/unfinished.new", "rescued with the file's name"}; !slices.Equal(synced, want) {
		t.Errorf("synced %q, want %q", synced, want)
	}
}

// What the disk did not take is not rescued, whichever sync fails.
func TestWhatIsNotSyncedIsNotRescued(t *testing.T) {
	for fails := range 3 {
		syncs := 0
		x := rescueFile{dir: t.TempDir(), shard: "shard-1", sync: func(*os.File) error {
			if syncs++; syncs == fails+1 {
				return syscall.EIO
			}
			return nil
		}}
		err := x.add(rescuedEntry("one"))
		if err == nil {
			_, _, err = x.finish(3, 7, 7)
		}
		x.abandon()
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("sync %d of 3 failed: %v", fails+1, err)
		}
	}
}
