package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// A copy that was replaced while its node was away keeps its directory. It is removed when nothing speaks for it: for an hour, or for a few seconds where the disk is full, the map,
// each time read anew from a quorum, has had no copy of the shard on this disk and the shard has had all its copies elsewhere; its
// log holds nothing that the primary's lacks; nothing was rescued in it. Whatever can't be told is a reason to keep it.

const (
	keepUnused  = time.Hour
	keepOnFull  = 5 * time.Second // on a disk that is full
	removingDir = "removing"      // what was taken out of shards/ and is being deleted
	rescuedDir  = "rescued"
)

type unused struct {
	n    *Node
	keep time.Duration
	work sync.Mutex // one looks at directories, or takes them away

	mu   sync.Mutex
	seen map[themis.ShardID]*unusedCopy
}

type unusedCopy struct {
	health.UnusedCopy
	opened time.Time       // when it was last opened; since then nobody has written to it, or it is another unusedCopy
	log    *wal.Inspection // nil: not read yet
}

func newUnused(n *Node) *unused {
	return &unused{n: n, keep: cmp.Or(n.o.keepUnused, keepUnused), seen: map[themis.ShardID]*unusedCopy{}}
}

// list is what is kept, by shard.
func (u *unused) list() (out []health.UnusedCopy) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.seen {
		out = append(out, c.UnusedCopy)
	}
	slices.SortFunc(out, func(a, b health.UnusedCopy) int { return cmp.Compare(a.Shard, b.Shard) })
	return out
}

func (u *unused) run(ctx context.Context, m *control.Map) error {
	for {
		changed, full := u.n.changed.next(), u.n.disk.changed.next()
		if _, ok := u.n.latest(); !ok { // nothing can be told yet
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			}
			continue
		}
		if err := u.sweep(ctx, m); err != nil && ctx.Err() == nil {
			u.n.log.Warn("unused copies could not be looked at", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(u.keeps()/4, time.Minute)):
		case <-full:
		}
	}
}

// keeps is for how long nothing must speak for a copy before it is removed.
func (u *unused) keeps() time.Duration {
	if u.n.disk.full() && guard.On(guard.UnusedOnFull) {
		return min(u.keep, keepOnFull)
	}
	return u.keep
}

// sweep looks at all directories of copies once.
func (u *unused) sweep(ctx context.Context, m *control.Map) error {
	u.work.Lock()
	defer u.work.Unlock()
	if err := os.RemoveAll(u.n.dir(removingDir)); err != nil { // left by a process that ended on the way
		return err
	}
	ids, err := u.candidates()
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, err := u.note(id)
		if err != nil {
			return err
		}
		why := u.whyKept(ctx, m, c)
		if why == "" {
			why, err = u.remove(ctx, m, c)
		}
		if err != nil {
			return fmt.Errorf("remove the unused copy of %s: %w", id, err)
		}
		u.mu.Lock()
		if why != c.Kept && why != "" {
			u.n.log.Info("unused copy is kept", "shard", id, "bytes", c.Bytes, "why", why)
		}
		c.Kept = why
		u.mu.Unlock()
	}
	return nil
}

// candidates are the shards that have a directory here and no copy in the map as this node last saw it. All others are forgotten.
func (u *unused) candidates() (out []themis.ShardID, err error) {
	entries, err := os.ReadDir(u.n.dir("shards"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	v, ok := u.n.latest()
	if !ok {
		return nil, nil
	}
	for _, e := range entries {
		id := themis.ShardID(e.Name())
		if _, open := u.n.shards.all()[id]; e.IsDir() && !open && (!holds(v.Shards[id], u.n.self()) || !guard.On(guard.UnusedOnly)) {
			out = append(out, id)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id := range u.seen {
		if !slices.Contains(out, id) {
			delete(u.seen, id)
		}
	}
	return out, nil
}

// note remembers an unused copy, from now on if it is new.
func (u *unused) note(id themis.ShardID) (*unusedCopy, error) {
	bytes, err := sizeOf(u.n.dir("shards", string(id)))
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.seen[id]
	if c == nil || u.reopened(c) {
		c = &unusedCopy{UnusedCopy: health.UnusedCopy{Shard: id, Since: time.Now().UTC()}, opened: u.n.shards.lastOpened(id)}
		u.seen[id] = c
	}
	c.Bytes = bytes
	return c, nil
}

// reopened says whether the map had brought the copy back since it was noted: it may hold more by now.
func (u *unused) reopened(c *unusedCopy) bool {
	return !u.n.shards.lastOpened(c.Shard).Equal(c.opened) && guard.On(guard.UnusedAnew)
}

// whyKept says what speaks against removing a copy; empty: nothing.
func (u *unused) whyKept(ctx context.Context, m *control.Map, c *unusedCopy) string {
	v, err := u.mapNow(ctx, m)
	why := ""
	if err != nil {
		why = "the map can't be read: " + err.Error()
	} else {
		why = inUse(v, u.n.joined().ID, u.n.self(), c.Shard)
	}
	if why != "" {
		u.mu.Lock()
		c.Since = time.Now().UTC() // the time counts while nothing speaks against it
		u.mu.Unlock()
		return why
	}
	dir, own := u.n.dir("shards", string(c.Shard)), u.identity(v, c.Shard)
	if why := cmp.Or(holdsMore(dir, own), holdsRescued(dir)); why != "" {
		return why
	}
	if keep := u.keeps(); time.Since(c.Since) < keep {
		return fmt.Sprintf("until %s, unless the map changes", c.Since.Add(keep).UTC().Format(time.RFC3339))
	}
	return u.uncovered(ctx, v, c)
}

func (u *unused) identity(v cluster.View, id themis.ShardID) wal.Identity {
	return wal.Identity{Cluster: v.Meta.ID, Shard: id, Storage: u.n.id.Storage}
}

func (u *unused) mapNow(ctx context.Context, m *control.Map) (cluster.View, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return m.View(ctx)
}

// holds says whether the shard's record names that disk in any part, or that node, whatever disk it names there.
func holds(s cluster.Shard, self cluster.Member) bool {
	same := func(m cluster.Member) bool { return m.Storage == self.Storage || m.Node == self.Node }
	return same(s.Primary) || slices.ContainsFunc(s.ISR, same) || slices.ContainsFunc(s.Replicas, func(r cluster.Replica) bool { return same(r.Member) })
}

// inUse says why the map does not let go of a disk's copy of a shard; empty: it does.
func inUse(v cluster.View, own themis.ClusterID, self cluster.Member, id themis.ShardID) string {
	s, known := v.Shards[id]
	switch {
	case v.Meta.ID != own:
		return fmt.Sprintf("the map is of cluster %s, not of %s", v.Meta.ID, own)
	case v.Nodes[self.Node].Storage != self.Storage:
		return "the map does not know this disk as " + string(self.Node)
	case !known:
		return "the map does not know the shard"
	case holds(s, self) && guard.On(guard.UnusedOnly):
		return "it is in the map"
	case s.Primary.IsZero():
		return "the shard has no primary"
	case len(s.ISR) < max(s.Want.RF, s.Have.RF):
		return fmt.Sprintf("%d of %d copies are in sync elsewhere", len(s.ISR), max(s.Want.RF, s.Have.RF))
	}
	return ""
}

// holdsRescued says whether something was rescued in a copy's directory.
func holdsRescued(dir string) string {
	inside, err := os.ReadDir(filepath.Join(dir, rescuedDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err.Error()
	case len(inside) > 0 && guard.On(guard.UnusedRescued):
		return fmt.Sprintf("rescued/ holds %d files: move them out", len(inside))
	}
	return ""
}

// holdsMore says what a copy's directory holds that is not the copy, nor was rescued from it; empty: nothing.
func holdsMore(dir string, want wal.Identity) string {
	if owner, err := replication.Owner(dir); err != nil {
		return err.Error()
	} else if owner != want {
		return fmt.Sprintf("it is of %s in cluster %s on disk %s", owner.Shard, owner.Cluster, owner.Storage)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == rescuedDir:
		case name == "snapshots":
			inside, err := os.ReadDir(filepath.Join(dir, name))
			if err != nil {
				return err.Error()
			}
			if len(inside) > 0 {
				return fmt.Sprintf("%s/ holds %d files: move them out", name, len(inside))
			}
		case strings.Contains(name, ".damaged-"):
			return fmt.Sprintf("%s was moved aside for people to look at: move it out", name)
		case !slices.Contains([]string{"wal", "store", "store.installing", "store.replaced"}, name) && !strings.HasPrefix(name, "REPLICA.json") &&
			!strings.HasPrefix(name, "install-") && !strings.HasPrefix(name, "checkpoint-"):
			return fmt.Sprintf("it holds %s, which is not part of a copy: move it out", name)
		}
	}
	return ""
}

// uncovered says what the copy's log holds that the primary's may lack; empty: nothing. What a primary that died had acknowledged
// alone, under ASYNC, may be nowhere else.
func (u *unused) uncovered(ctx context.Context, v cluster.View, c *unusedCopy) string {
	if !guard.On(guard.UnusedCovered) || c.log == nil && emptied(u.n.dir("shards", string(c.Shard))) {
		return ""
	}
	common, why := u.common(ctx, v, c)
	if why == "" && common < c.log.Last.Seq {
		why = fmt.Sprintf("its log ends at seq %d of epoch %d, and only what is up to seq %d is known to be in the primary's", c.log.Last.Seq, c.log.Last.Epoch, common)
	}
	return why
}

// emptied says whether nothing of a copy is left but what may have been rescued from it.
func emptied(dir string) bool {
	missing := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return errors.Is(err, fs.ErrNotExist)
	}
	return missing("wal") && missing("store")
}

// common is up to which seq the copy's log is known to be the primary's, or why that can't be told. It reads c.log, once.
func (u *unused) common(ctx context.Context, v cluster.View, c *unusedCopy) (themis.Seq, string) {
	if c.log == nil {
		in, err := wal.Inspect(filepath.Join(u.n.dir("shards", string(c.Shard)), "wal"), wal.Identity{}, nil)
		if err != nil {
			return 0, "its log can't be read: " + err.Error()
		}
		c.log = &in
	}
	if c.log.Resetting || c.log.Entries == 0 && c.log.Last.Seq == 0 && c.log.Sound() {
		return c.log.Last.Seq, "" // it holds nothing of its own
	}
	if !c.log.Sound() {
		return 0, fmt.Sprintf("its log is damaged (%s): what it held can't be compared", c.log.Findings[0].Fault)
	}
	s := v.Shards[c.Shard]
	st := u.n.gather.states(ctx, v)[s.Primary.Node].State
	if st == nil {
		return 0, fmt.Sprintf("the primary %s can't be asked what it holds", s.Primary.Node)
	}
	i := slices.IndexFunc(st.Replicas, func(r health.LocalReplica) bool { return r.Shard == c.Shard })
	if i < 0 || st.Replicas[i].Role != health.Primary || st.Replicas[i].Storage != s.Primary.Storage {
		return 0, fmt.Sprintf("%s does not lead", s.Primary.Node)
	}
	lineage := c.log.Lineage
	for _, e := range c.log.Epochs { // LOG may lack the newest
		if len(lineage) == 0 || e.Epoch > lineage[len(lineage)-1].Epoch {
			lineage = append(slices.Clone(lineage), e)
		}
	}
	return replication.Common(lineage, c.log.Last.Seq, st.Replicas[i].Lineage, st.Replicas[i].Seq), ""
}

// remove takes the copy's directory away, if the map still says so while no copy can be opened here, and deletes it.
func (u *unused) remove(ctx context.Context, m *control.Map, c *unusedCopy) (kept string, err error) {
	rev, kept, err := u.delete(ctx, m, c, false)
	if err != nil || kept != "" {
		return kept, err
	}
	u.n.event(cluster.Event{
		Actor: u.n.actor(), Action: "remove_copy", Subject: string(c.Shard), Outcome: "done", Rule: "unused-only",
		Reason: fmt.Sprintf("%d bytes freed: the map has had no copy of it on disk %s since %s, up to revision %d", c.Bytes, u.n.id.Storage, c.Since.Format(time.RFC3339), rev),
	})
	return "", nil
}

// delete takes a copy away and deletes it: all of it, or with partly all but what was rescued and whose it was.
func (u *unused) delete(ctx context.Context, m *control.Map, c *unusedCopy, partly bool) (rev themis.Revision, kept string, err error) {
	rev, kept, err = u.takeAway(ctx, m, c, partly)
	if err != nil || kept != "" {
		return rev, kept, err
	}
	if err := os.RemoveAll(u.n.dir(removingDir, string(c.Shard))); err != nil {
		return rev, "", err
	}
	u.mu.Lock()
	delete(u.seen, c.Shard)
	u.mu.Unlock()
	return rev, "", nil
}

func (u *unused) takeAway(ctx context.Context, m *control.Map, c *unusedCopy, partly bool) (rev themis.Revision, kept string, err error) {
	u.n.shards.changing.Lock()
	defer u.n.shards.changing.Unlock()
	id := c.Shard
	if _, open := u.n.shards.all()[id]; open || u.reopened(c) {
		return 0, "it is open, or was since it was looked at", nil
	}
	v, err := u.mapNow(ctx, m)
	if err != nil {
		return 0, "the map can't be read: " + err.Error(), nil
	}
	if kept = inUse(v, u.n.joined().ID, u.n.self(), id); kept != "" {
		return 0, kept, nil
	}
	from, to := u.n.dir("shards", string(id)), u.n.dir(removingDir, string(id))
	if err := os.MkdirAll(u.n.dir(removingDir), 0o700); err != nil {
		return 0, "", err
	}
	if partly {
		err = moveParts(from, to)
	} else {
		err = os.Rename(from, to)
	}
	if err == nil {
		err = errors.Join(syncDir(u.n.dir(removingDir)), syncDir(u.n.dir("shards")))
	}
	return v.Revision, "", err
}

// moveParts moves what is in a copy's directory, but for what was rescued and whose it was. The log goes last: until then, another run
// can still tell what it holds.
func moveParts(from, to string) error {
	entries, err := os.ReadDir(from)
	if err == nil {
		err = os.MkdirAll(to, 0o700)
	}
	last := ""
	for _, e := range entries {
		switch name := e.Name(); {
		case err != nil:
			return err
		case name == rescuedDir || strings.HasPrefix(name, "REPLICA.json"):
		case name == "wal":
			last = name
		default:
			err = os.Rename(filepath.Join(from, name), filepath.Join(to, name))
		}
	}
	if err == nil {
		err = syncDir(from)
	}
	if err == nil && last != "" {
		err = os.Rename(filepath.Join(from, last), filepath.Join(to, last))
	}
	return errors.Join(err, syncDir(from))
}

// sizeOf is how many bytes the files below dir have.
func sizeOf(dir string) (n themis.Bytes, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += themis.Bytes(info.Size())
		}
		return err
	})
	return n, err
}
