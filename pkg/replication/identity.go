package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// promiseFile is what a replica must not forget: the epoch below which it refuses everything, and whether it counts.
type promiseFile struct {
	Format    int                 `json:"format"`
	Cluster   themis.ClusterID    `json:"cluster_id"`
	Shard     themis.ShardID      `json:"shard"`
	Storage   themis.StorageID    `json:"storage_id"`
	Promised  themis.Epoch        `json:"promised_epoch"`
	Blank     string              `json:"blank,omitempty"`
	Filled    bool                `json:"filled,omitempty"`          // blank, but a primary's state is here: frames may follow it
	LeaseFree bool                `json:"lease_free,omitempty"`      // no read lease that this disk ever promised is open
	Lineage   []themis.EpochStart `json:"install_lineage,omitempty"` // of the state that is being installed
	Sum       string              `json:"crc32c"`                    // of all of the above
}

const promiseName = "REPLICA.json"

func readPromise(dir string) (promiseFile, bool, error) {
	var p promiseFile
	b, err := os.ReadFile(filepath.Join(dir, promiseName)) //nolint:gosec // a path of our own
	if errors.Is(err, fs.ErrNotExist) {
		return p, false, nil
	}
	if err == nil {
		err = themis.Unseal(b, &p, &p.Sum)
		if !guard.On(guard.Sealed) {
			err = json.Unmarshal(b, &p)
		}
	}
	if err == nil && p.Format != 1 {
		err = themis.Errorf(themis.Unimplemented, "UPGRADE_NEEDED: format %d, this version knows 1", p.Format).Do("start a newer themisd")
	}
	if themis.CodeOf(err) == themis.Unimplemented {
		return p, true, fmt.Errorf("read %s: %w", filepath.Join(dir, promiseName), err)
	}
	if err != nil {
		return p, true, themis.Errorf(themis.Corrupt, "read %s: %w", filepath.Join(dir, promiseName), err)
	}
	return p, true, nil
}

// Owner is whose copy the directory of a replica holds, as it noted itself; CORRUPT where that can't be told.
func Owner(dir string) (wal.Identity, error) {
	p, there, err := readPromise(dir)
	if err == nil && !there {
		err = themis.Errorf(themis.Corrupt, "%s: there is no %s", dir, promiseName)
	}
	return wal.Identity{Cluster: p.Cluster, Shard: p.Shard, Storage: p.Storage}, err
}

// write replaces the file: it leaves the old or the new content, whatever happens in between, and returns when the new one is
// on disk.
func (p promiseFile) write(dir string) error {
	b, err := themis.Seal(&p, &p.Sum)
	if err != nil {
		return fmt.Errorf("encode %s: %w", promiseName, err)
	}
	return replaceFile(filepath.Join(dir, promiseName), b)
}

func replaceFile(name string, data []byte) (err error) {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // a path of our own
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err == nil {
		err = syncDir(filepath.Dir(name), (*os.File).Sync)
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return nil
}

// syncDir makes creations, renames and removals in dir durable.
func syncDir(dir string, sync func(*os.File) error) error {
	d, err := os.Open(dir) //nolint:gosec // a path of our own
	if err != nil {
		return err
	}
	return errors.Join(sync(d), d.Close())
}
