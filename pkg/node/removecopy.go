package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/replication"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// removeCopyArgs is what `shard remove-copy` asks for.
type removeCopyArgs struct {
	Shard  themis.ShardID `json:"shard"`
	Node   themis.NodeID  `json:"node"`
	By     string         `json:"by,omitempty"`     // the operator, where a node passes the verb on
	Passed bool           `json:"passed,omitempty"` // a node passed it on: it goes no further
}

// removeCopyResult is what became of it, or what would.
type removeCopyResult struct {
	Shard   themis.ShardID `json:"shard"`
	Node    themis.NodeID  `json:"node"`
	Changed bool           `json:"changed"` // false: there was no such copy
	DryRun  bool           `json:"dry_run"` // nothing was changed; the rest is what would be
	Bytes   themis.Bytes   `json:"bytes"`   // that the copy takes, or took
	Rescued string         `json:"rescued"` // the file on the node with what the primary's log may lack; empty: none was needed
	Writes  int            `json:"writes"`  // in it
	Steps   []string       `json:"steps"`   // in their order, for people
	Note    string         `json:"note"`
}

// removeCopy takes a copy that the map no longer has from a node's disk, after what its log holds and the primary's may lack was
// written to rescued/ there. It is run by the node that has the copy; any other passes it on. Whatever can't be told is a reason to
// refuse. No such copy is no error. With dry it says what would be done, or why it may not be, and changes nothing.
func (n *Node) removeCopy(ctx context.Context, a removeCopyArgs, dry bool) (*removeCopyResult, error) {
	m, v, err := n.freshView(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := v.Shards[a.Shard]; !ok {
		return nil, themis.Errorf(themis.NotFound, "there is no shard %q", a.Shard).Do("themis-cli shard list")
	}
	x, ok := v.Nodes[a.Node]
	if !ok {
		return nil, themis.Errorf(themis.NotFound, "there is no node %q", a.Node).Do("themis-cli node list")
	}
	who := operator(ctx, a.By)
	if a.Node != n.id.Node {
		if a.Passed {
			return nil, themis.Errorf(themis.StalePlan, "remove the copy of %s: this is %s, not %s", a.Shard, n.id.Node, a.Node).Do("run the same command again")
		}
		a.By, a.Passed = who.ID, true
		return n.passToNode(ctx, x, a, dry)
	}
	out, err := n.unused.letGo(ctx, m, a.Shard, dry)
	if dry || err == nil && !out.Changed {
		return out, err
	}
	e := cluster.Event{Actor: who, Action: "remove_copy", Subject: string(a.Shard) + "/" + string(a.Node), Outcome: "done", Rule: "copy-rescued"}
	if err != nil {
		e.Outcome, e.Reason = "failed", err.Error()
		if themis.CodeOf(err) == themis.RefusedUnsafe {
			e.Outcome = "refused"
		}
		n.event(e)
		return nil, err
	}
	e.Reason, e.After = out.Note, asJSON(out)
	n.event(e)
	return out, nil
}

func (n *Node) passToNode(ctx context.Context, x cluster.Node, a removeCopyArgs, dry bool) (*removeCopyResult, error) {
	var resp *nodev1.ActResponse
	c, err := n.pool.Admin(ctx, x.GRPC, x.ID)
	if err == nil {
		resp, err = c.Act(ctx, &nodev1.ActRequest{Verb: "shard.remove-copy", ArgsJson: asJSON(a), DryRun: dry})
	}
	out := &removeCopyResult{}
	switch {
	case err == nil:
		return out, json.Unmarshal(resp.GetResultJson(), out)
	case themis.CodeOf(err) == themis.Unreachable:
		return nil, themis.Errorf(themis.RefusedUnsafe, "remove the copy of %s on %s: the node can't be asked what it holds: %w", a.Shard, x.ID, err).In(a.Shard).Do("themis-cli node show %s", x.ID)
	}
	return nil, err
}

// letGo removes the copy of a shard that the map no longer has, and whatever its log holds.
func (u *unused) letGo(ctx context.Context, m *control.Map, id themis.ShardID, dry bool) (*removeCopyResult, error) {
	u.work.Lock()
	defer u.work.Unlock()
	out := &removeCopyResult{Shard: id, Node: u.n.id.Node, DryRun: dry, Steps: []string{}, Note: "there is no such copy"}
	dir := u.n.dir("shards", string(id))
	v, err := u.mapNow(ctx, m)
	if err != nil {
		return nil, u.refused(id, "the map can't be read: "+err.Error())
	}
	_, err = os.Stat(dir)
	switch inMap := holds(v.Shards[id], u.n.self()); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err != nil && !inMap:
		return out, nil
	case !inMap && emptied(dir):
		out.Note = "nothing is left of it but what was rescued: " + holdsRescued(dir)
		return out, nil
	}
	why := inUse(v, u.n.joined().ID, u.n.self(), id)
	if why == "" {
		why = holdsMore(dir, u.identity(v, id))
	}
	if _, open := u.n.shards.all()[id]; why == "" && open {
		why = "it is open"
	}
	if why != "" {
		return nil, u.refused(id, why)
	}
	if out.Bytes, err = sizeOf(dir); err != nil {
		return nil, err
	}
	return out, u.rescueAndDelete(ctx, m, v, out)
}

// rescueAndDelete fills in what becomes of the copy; if it is no dry run, it does it.
func (u *unused) rescueAndDelete(ctx context.Context, m *control.Map, v cluster.View, out *removeCopyResult) (err error) {
	c := &unusedCopy{UnusedCopy: health.UnusedCopy{Shard: out.Shard, Bytes: out.Bytes}, opened: u.n.shards.lastOpened(out.Shard)}
	common, why := u.common(ctx, v, c)
	if why != "" {
		return u.refused(out.Shard, why)
	}
	dir := u.n.dir("shards", string(out.Shard))
	lacks, last := common < c.log.Last.Seq && guard.On(guard.CopyRescued), c.log.Last.Seq
	if lacks {
		out.Steps = append(out.Steps, fmt.Sprintf("the writes of seq %d to %d, which are not known to be in the primary's log, are saved in %s", common+1, last, filepath.Join(dir, rescuedDir)))
	}
	out.Steps = append(out.Steps, fmt.Sprintf("the copy is deleted: %d bytes", out.Bytes))
	out.Changed, out.Note = true, "the primary's log has all that its log held"
	if out.DryRun {
		return nil
	}
	if lacks {
		if out.Rescued, out.Writes, err = replication.Rescue(dir, u.identity(v, out.Shard), common, v.Shards[out.Shard].AckedAlone()); err != nil {
			return fmt.Errorf("rescue the writes of %s: nothing was deleted: %w", out.Shard, err)
		}
		out.Note = fmt.Sprintf("nothing that its log held behind seq %d was a write", common)
	}
	if out.Writes > 0 {
		out.Note = fmt.Sprintf("%d writes that are not known to be in the primary's log are in %s: replay what is still wanted, then move the file out", out.Writes, out.Rescued)
	}
	rescued, err := os.ReadDir(filepath.Join(dir, rescuedDir)) // some may be older
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, kept, err := u.delete(ctx, m, c, len(rescued) > 0)
	if err == nil && kept != "" {
		err = u.refused(out.Shard, kept)
	}
	return err
}

func (u *unused) refused(id themis.ShardID, why string) error {
	return themis.Errorf(themis.RefusedUnsafe, "remove the copy of %s on %s: %s", id, u.n.id.Node, why).In(id).Do("themis-cli shard show %s", id)
}
