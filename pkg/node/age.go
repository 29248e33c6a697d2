package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// ageFile is AGE: how old the disk is (cluster.DiskAge).
type ageFile struct {
	Format  int              `json:"format"`
	Storage themis.StorageID `json:"storage_id"`
	Age     uint64           `json:"age"`
	Sum     string           `json:"crc32c"`
}

const ageName = "AGE"

// readAge is 0 where nothing was written yet; a record of a later age then tells that it was.
func (n *Node) readAge() (uint64, error) {
	b, err := os.ReadFile(n.dir(ageName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var a ageFile
	if err == nil {
		err = themis.Unseal(b, &a, &a.Sum)
	}
	if err == nil && a.Storage != n.id.Storage {
		err = fmt.Errorf("it is of storage %s, node.json names %s", a.Storage, n.id.Storage)
	}
	if err != nil {
		return 0, themis.Errorf(themis.Corrupt, "read %s: %w", n.dir(ageName), err).Do("%s", n.newDisk())
	}
	return a.Age, nil
}

func (n *Node) newDisk() string {
	return fmt.Sprintf("move %s away, start the node with an empty one, and let a node of the cluster take it in as a new disk: themis-cli node join ADDR --replace", n.cfg.Node.DataDir)
}

// checkAge refuses a disk that is an older state of itself, once the control plane answers.
func (n *Node) checkAge(ctx context.Context, m *control.Map) error {
	own, err := n.readAge()
	if err != nil {
		return err
	}
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		seen, err := m.DiskAge(try, n.id.Node)
		cancel()
		if err == nil {
			if err := (cluster.DiskAge{Node: n.id.Node, Storage: n.id.Storage, Age: own}).Follows(seen); err != nil && guard.On(guard.OldDisk) {
				return themis.Errorf(themis.RefusedUnsafe, "node.data_dir %s: %w", n.cfg.Node.DataDir, err).Do("%s", n.newDisk())
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// growOlder counts on: first on the disk, then in the control plane, so that the record is never ahead of the disk that made it.
func (n *Node) growOlder(ctx context.Context, m *control.Map) {
	own, err := n.readAge()
	if err != nil {
		n.log.Warn("the age of the disk is not counted on", "err", err)
		return
	}
	a := ageFile{Format: 1, Storage: n.id.Storage, Age: own + 1}
	b, err := themis.Seal(&a, &a.Sum)
	if err == nil {
		err = replaceFile(n.cfg.Node.DataDir, ageName, b)
	}
	if err == nil {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		err = m.PutDiskAge(try, cluster.DiskAge{Node: n.id.Node, Storage: n.id.Storage, Age: a.Age})
	}
	if err != nil && ctx.Err() == nil {
		n.log.Debug("the age of the disk is not counted on", "err", err) // a full disk, a control plane that is away: the next time
	}
}
