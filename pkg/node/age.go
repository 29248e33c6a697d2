package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/replication"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// ageFile is AGE: how old the disk is (cluster.DiskAge), and on members of the control plane how old those of the other members were
// when they were last looked at.
type ageFile struct {
	Format  int              `json:"format"`
	Storage themis.StorageID `json:"storage_id"`
	Age     uint64           `json:"age"`
	Seen    []seenDisk       `json:"seen,omitempty"`
	Sum     string           `json:"crc32c"`
}

type seenDisk struct {
	Node    themis.NodeID    `json:"node"`
	GRPC    string           `json:"grpc_addr"`
	Storage themis.StorageID `json:"storage_id"`
	Age     uint64           `json:"age"`
}

const (
	ageName     = "AGE"
	askPatience = 3 * time.Second  // for members of the control plane that are not needed
	askLimit    = 30 * time.Second // for one that is: without it the member here could not do anything
)

// readAge is 0 where nothing was written yet; a record of a later age then tells that it was.
func (n *Node) readAge() (a ageFile, err error) {
	b, err := os.ReadFile(n.dir(ageName))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err == nil {
		err = themis.Unseal(b, &a, &a.Sum)
	}
	if err == nil && a.Storage != n.id.Storage {
		err = fmt.Errorf("it is of storage %s, node.json names %s", a.Storage, n.id.Storage)
	}
	if themis.CodeOf(err) == themis.Unimplemented {
		return ageFile{}, fmt.Errorf("read %s: %w", n.dir(ageName), err)
	}
	if err != nil {
		return ageFile{}, themis.Errorf(themis.Corrupt, "read %s: %w", n.dir(ageName), err).Do("%s", n.newDisk())
	}
	return a, nil
}

func (n *Node) newDisk() string {
	return fmt.Sprintf("move %s away, start the node with an empty one, and let a node of the cluster take it in as a new disk: themis-cli node join ADDR --replace", n.cfg.Node.DataDir)
}

// follows refuses a disk that was older already.
func (n *Node) follows(own uint64, seen cluster.DiskAge) error {
	if err := (cluster.DiskAge{Node: n.id.Node, Storage: n.id.Storage, Age: own}).Follows(seen); err != nil {
		return themis.Errorf(themis.RefusedUnsafe, "node.data_dir %s: %w", n.cfg.Node.DataDir, err).Do("%s", n.newDisk())
	}
	return nil
}

// checkAge refuses a disk that is an older state of itself, once the control plane answers.
func (n *Node) checkAge(ctx context.Context, m *control.Map) error {
	own, err := n.readAge()
	if err != nil {
		return err
	}
	var seen cluster.DiskAge
	err = n.asking(ctx, "the age of the disk is not checked yet", func(ctx context.Context) (final bool, err error) {
		seen, err = m.DiskAge(ctx, n.id.Node)
		return false, err
	})
	if err != nil {
		return err
	}
	old := n.follows(own.Age, seen)
	if old == nil || !guard.On(guard.OldDisk) {
		return nil
	}
	if double := n.mayReplaceProcess(ctx, m)(cluster.Alive{}); themis.CodeOf(double) == themis.RefusedUnsafe {
		return double // the disk is a copy of one at work: that says more
	}
	return old
}

// checkAgeBefore is checkAge before the member of the embedded control plane starts here: on an older state of its disk it has
// forgotten what it had confirmed to others, and could help to elect a leader that lacks it. The other members' nodes are asked, which
// know the ages that they saw also while no control plane runs. As many as the member here needs for a majority must answer, for it
// could do nothing without them; the rest is waited for a moment.
func (n *Node) checkAgeBefore(ctx context.Context, j *joined) error {
	own, err := n.readAge()
	if err != nil || len(own.Seen) == 0 || !guard.On(guard.OldMember) {
		return err
	}
	pending, need := own.Seen, (len(own.Seen)+1)/2
	for began := time.Now(); ; {
		var silent []seenDisk
		for _, peer := range pending {
			asked, err := n.askAge(ctx, j, own.Age, peer)
			if err != nil {
				return err
			}
			if !asked {
				silent = append(silent, peer)
			}
		}
		pending = silent
		switch waited, answered := time.Since(began), len(own.Seen)-len(pending); {
		case len(pending) == 0:
			return nil
		case answered >= need && waited > askPatience, waited > askLimit:
			n.log.Warn("the age of the disk was not compared with what all members of the control plane have seen", "silent", len(pending), "asked", len(own.Seen))
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// askAge says whether the other member's node answered, and refuses what it knows to be an older state of the disk.
func (n *Node) askAge(ctx context.Context, j *joined, own uint64, peer seenDisk) (answered bool, err error) {
	try, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	d, err := n.describe(try, peer.GRPC)
	if err != nil || d.GetNodeId() != string(peer.Node) || d.GetClusterId() != string(j.ID) {
		return false, nil
	}
	for _, s := range d.GetSeenDisks() {
		if s.GetNodeId() != string(n.id.Node) {
			continue
		}
		if err := n.follows(own, cluster.DiskAge{Node: n.id.Node, Storage: themis.StorageID(s.GetStorageId()), Age: s.GetAge()}); err != nil {
			return true, fmt.Errorf("%s says: %w", peer.Node, err)
		}
	}
	return true, nil
}

// seenDisks are the ages of disks that this member of the control plane noted, and those that its own etcd holds now.
func (n *Node) seenDisks(ctx context.Context) (out []*nodev1.DiskAge) {
	if j := n.joined(); j == nil || !j.ControlMember {
		return nil
	}
	if a, err := n.readAge(); err == nil {
		for _, s := range a.Seen {
			out = append(out, &nodev1.DiskAge{NodeId: string(s.Node), StorageId: string(s.Storage), Age: s.Age})
		}
	}
	if m := n.m.Load(); m != nil {
		try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		now, _ := m.DiskAges(try) // then what was noted has to do
		for _, s := range now {
			out = append(out, &nodev1.DiskAge{NodeId: string(s.Node), StorageId: string(s.Storage), Age: s.Age})
		}
	}
	return out
}

// lookAtOthers is what a member of the control plane notes of the other members' disks; nil: nothing is known now.
func (n *Node) lookAtOthers(ctx context.Context, m *control.Map) (out []seenDisk) {
	v, ok := n.latest()
	if j := n.joined(); !ok || j == nil || !j.ControlMember {
		return nil
	}
	try, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	all, err := m.DiskAges(try)
	if err != nil {
		return nil
	}
	return othersOf(v, n.id.Node, all)
}

// othersOf are all other members, also those that never said how old they are: whoever is not noted is not asked at the next start.
func othersOf(v cluster.View, own themis.NodeID, ages []cluster.DiskAge) []seenDisk {
	out := []seenDisk{}
	for _, id := range v.ControlNodes() {
		if id == own {
			continue
		}
		seen := seenDisk{Node: id, GRPC: v.Nodes[id].GRPC, Storage: v.Nodes[id].Storage}
		if i := slices.IndexFunc(ages, func(a cluster.DiskAge) bool { return a.Node == id }); i >= 0 {
			seen.Storage, seen.Age = ages[i].Storage, ages[i].Age
		}
		out = append(out, seen)
	}
	return out
}

const (
	ageMost  = 10 * time.Second      // a disk grows older at least so often,
	ageLeast = time.Second           // and at most so often, when its copies took something in,
	ageShare = 50 * time.Millisecond // and for each node of the cluster so much less often, which bounds what the control plane takes
	ageLate  = 3 * ageMost           // from then on it is said that it does not
)

// aging is whether the disk's age is counted on.
type aging struct {
	mu    sync.Mutex
	since time.Time // when it last was; before that, when it was first tried
	err   error     // of the newest attempt
	late  bool      // it has not been for ageLate
}

// note takes in what came of an attempt, and says whether it was and is late.
func (a *aging) note(err error, now time.Time) (was, is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || a.since.IsZero() {
		a.since = now
	}
	was, a.err, a.late = a.late, err, now.Sub(a.since) > ageLate
	return was, a.late
}

// tells is what health says of an age that stands still; nil while it does not.
func (a *aging) tells(dir string) *health.DiskAgeStands {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.late {
		return nil
	}
	return &health.DiskAgeStands{Dir: dir, Since: a.since.UTC(), Why: a.err.Error()}
}

// ageEvery is how long after it last grew older a disk does so again if its copies took something in; took is how long it took, so that
// a slow disk or control plane is busy with it for a fifth of the time at most.
func ageEvery(nodes int, took time.Duration) time.Duration {
	if !guard.On(guard.AgeGrows) {
		return ageMost
	}
	return min(ageMost, max(ageLeast, time.Duration(nodes)*ageShare, 4*took))
}

// age counts the disk's age on until ctx ends: soon after its copies took something in that an older state of the disk would lack.
func (n *Node) age(ctx context.Context, m *control.Map) error {
	tick := time.NewTicker(ageLeast / 10)
	defer tick.Stop()
	var had map[themis.ShardID]replication.Mark
	wait, last := ageLeast, time.Now() // by then the map is here, and with it the ages of others' disks
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		has := n.shards.marks()
		if since := time.Since(last); since < wait || since < ageMost && had != nil && maps.Equal(had, has) {
			continue
		}
		began := time.Now()
		n.growOlder(ctx, m)
		v, _ := n.latest()
		had, last = has, time.Now()
		wait = ageEvery(len(v.Nodes), last.Sub(began))
	}
}

// growOlder counts on. A full disk, a control plane that is away: the next time; but while it goes on so, what the disk acknowledges is
// not told from what an older state of it would have.
func (n *Node) growOlder(ctx context.Context, m *control.Map) {
	err := n.countOn(ctx, m)
	if ctx.Err() != nil {
		return
	}
	switch was, late := n.aging.note(err, time.Now()); {
	case late && !was:
		n.log.Warn("the age of the disk is not counted on", "err", err)
	case was && !late:
		n.log.Info("the age of the disk is counted on again")
	}
}

// countOn does it first on the disk, then in the control plane, so that the record is never ahead of the disk that made it.
func (n *Node) countOn(ctx context.Context, m *control.Map) error {
	own, err := n.readAge()
	if err != nil {
		return err
	}
	a := ageFile{Format: 1, Storage: n.id.Storage, Age: own.Age + 1, Seen: own.Seen}
	if seen := n.lookAtOthers(ctx, m); seen != nil {
		a.Seen = seen
	}
	b, err := themis.Seal(&a, &a.Sum)
	if err == nil {
		err = replaceFile(n.cfg.Node.DataDir, ageName, b)
	}
	if err != nil {
		return err
	}
	try, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return m.PutDiskAge(try, cluster.DiskAge{Node: n.id.Node, Storage: n.id.Storage, Age: a.Age})
}
