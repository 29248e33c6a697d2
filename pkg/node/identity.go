package node

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// identity is node.json: who this data directory is, and which cluster it belongs to.
type identity struct {
	Format  int              `json:"format"`
	Node    themis.NodeID    `json:"node_id"`
	Storage themis.StorageID `json:"storage_id"`
	Address string           `json:"grpc_addr,omitempty"` // where the node was last reached
	Joined  *joined          `json:"joined,omitempty"`
	Sum     string           `json:"crc32c"` // of all of the above
}

// joined is what a node was told when it became a member.
type joined struct {
	ID             themis.ClusterID  `json:"cluster_id"`
	Name           string            `json:"cluster_name"`
	ControlMember  bool              `json:"control_member"`
	InitialCluster map[string]string `json:"initial_cluster,omitempty"` // peer URLs by node, for control members
	Existing       bool              `json:"existing,omitempty"`        // the control plane existed before this member
	Endpoints      []string          `json:"control_endpoints"`         // client URLs
	Nodes          []knownNode       `json:"nodes,omitempty"`           // of the newest map, whom to ask where the control plane is
	Seen           bool              `json:"map_seen,omitempty"`        // the cluster's map was there
}

const identityName = "node.json"

// openIdentity reads the directory's identity, or makes one. A directory of another node is an error that names both.
func openIdentity(dir string, node themis.NodeID) (identity, error) {
	name := filepath.Join(dir, identityName)
	b, err := os.ReadFile(name) //nolint:gosec // the operator's own directory
	if errors.Is(err, fs.ErrNotExist) {
		id := identity{Format: 1, Node: node, Storage: themis.StorageID(randomID())}
		return id, id.write(dir)
	}
	var id identity
	if err == nil {
		err = themis.Unseal(b, &id, &id.Sum)
		if !guard.On(guard.Sealed) {
			err = json.Unmarshal(b, &id)
		}
	}
	switch {
	case themis.CodeOf(err) == themis.Unimplemented:
		return id, fmt.Errorf("read %s: %w", name, err)
	case err != nil:
		return id, themis.Errorf(themis.Corrupt, "read %s: %w", name, err).
			Do("move %s away, start the node with an empty one, and let a node of the cluster take it in as a new disk: themis-cli node join ADDR --replace", dir)
	case id.Format != 1:
		return id, themis.Errorf(themis.Unimplemented, "UPGRADE_NEEDED: %s has format %d, this version knows 1", name, id.Format).Do("start a newer themisd")
	case id.Node != node:
		return id, themis.Errorf(themis.InvalidArgument, "node.data_dir %s belongs to %s, this is %s", dir, id.Node, node).Do("give each node a directory of its own")
	}
	return id, nil
}

func (id identity) write(dir string) error {
	b, err := themis.Seal(&id, &id.Sum)
	if err != nil {
		return fmt.Errorf("encode %s: %w", identityName, err)
	}
	return replaceFile(dir, identityName, b)
}

// replaceFile leaves the old or the new content, whatever happens in between, and returns when the new one is on disk.
func replaceFile(dir, file string, b []byte) error {
	name := filepath.Join(dir, file)
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // the operator's own directory
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator's own directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// randomID is sixteen random bytes in hexadecimal.
func randomID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// checkCluster refuses a directory of another cluster than the certificate's.
func (id identity) checkCluster(dir string, own pki.Info) error {
	j := id.Joined
	if j == nil || !guard.On(guard.OwnCluster) {
		return nil
	}
	if own.Cluster == j.Name && (own.ClusterID == "" || own.ClusterID == j.ID) {
		return nil
	}
	return themis.Errorf(themis.RefusedUnsafe, "node.data_dir %s belongs to cluster %s (%s), the certificate is of cluster %s", dir, j.Name, j.ID, strings.TrimSpace(own.Cluster+" "+string(own.ClusterID))).
		Do("start it with a certificate of cluster %s, or give the node an empty node.data_dir", j.Name)
}

// lockDir keeps a second process out of the directory.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("node.data_dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator's own directory
	if err != nil {
		return nil, fmt.Errorf("node.data_dir: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		_ = f.Close()
		return nil, themis.Errorf(themis.RefusedUnsafe, "node.data_dir %s: another themisd has it open", dir).Do("stop that process first: fuser -v %s/LOCK", dir)
	}
	return f, nil
}
