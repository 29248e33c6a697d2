package control

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// Coronation is one change of reign: the record that was seen, and the one that begins the next reign (cluster.Shard.Crown).
type Coronation struct {
	Seen, Next cluster.Shard
}

// Crowned is what became of a coronation.
type Crowned struct {
	Shard cluster.Shard // with its new revision; zero when Err is set
	Err   error         // ErrStale, ErrDeposed, ErrUnknownOutcome or why it was not tried
}

// crownBatch is how many shards one transaction crowns: 256 shards in 4 transactions take 20 ms, in 256 they take 190.
const crownBatch = 64

// Crown begins the reign next.Epoch: if the shard's record is the one that was seen and the controller's record stands. It
// returns the record with its new revision. Nothing has been changed on ErrStale and ErrDeposed; an answer that never came
// is resolved by reading back.
func (m *Map) Crown(ctx context.Context, seen cluster.Shard, as cluster.Controller, next cluster.Shard) (cluster.Shard, error) {
	out := m.CrownMany(ctx, as, []Coronation{{seen, next}})
	return out[0].Shard, out[0].Err
}

// CrownMany crowns in batches. The answers are in the order of the coronations; one that is refused doesn't hold up the
// others in its batch.
func (m *Map) CrownMany(ctx context.Context, as cluster.Controller, cs []Coronation) []Crowned {
	out := make([]Crowned, len(cs))
	var open []int
	for i, c := range cs {
		if out[i].Err = checkCoronation(c); out[i].Err == nil {
			open = append(open, i)
		}
	}
	for chunk := range slices.Chunk(open, crownBatch) {
		m.crownBatch(ctx, as, cs, chunk, out)
	}
	return out
}

func checkCoronation(c Coronation) error {
	switch {
	case c.Seen.Revision == 0:
		return unseen("crown", c.Seen)
	case c.Seen.ID != c.Next.ID:
		return themis.Errorf(themis.InvalidArgument, "crown %s: the next record is that of %s", c.Seen.ID, c.Next.ID)
	case c.Next.Epoch != c.Seen.Epoch+1:
		return themis.Errorf(themis.InvalidArgument, "crown %s: epoch %d after %d", c.Seen.ID, c.Next.Epoch, c.Seen.Epoch).In(c.Seen.ID)
	case c.Next.Primary.IsZero() || c.Next.Boot == "":
		return themis.Errorf(themis.InvalidArgument, "crown %s: no primary, or not the process that is to lead", c.Seen.ID).In(c.Seen.ID)
	}
	return checkRecord("crown", c.Next)
}

func unseen(verb string, s cluster.Shard) error {
	return themis.Errorf(themis.InvalidArgument, "%s %s: without the revision that was seen", verb, s.ID).In(s.ID)
}

func checkRecord(verb string, s cluster.Shard) error {
	if err := errors.Join(s.Check()...); err != nil {
		return themis.Errorf(themis.InvalidArgument, "%s %s: %w", verb, s.ID, err).In(s.ID)
	}
	return nil
}

// crownBatch tries the open ones together; those whose record has moved on are refused and the others tried again.
func (m *Map) crownBatch(ctx context.Context, as cluster.Controller, cs []Coronation, open []int, out []Crowned) {
	fail := func(err error) {
		for _, i := range open {
			out[i].Err = fmt.Errorf("crown %s: %w", cs[i].Seen.ID, err)
		}
	}
	for len(open) > 0 {
		t := Txn{If: []Compare{m.reign(as)}}
		for _, i := range open {
			if err := m.replace(&t, cs[i].Seen, cs[i].Next); err != nil {
				fail(err)
				return
			}
		}
		first := cs[open[0]].Seen
		rev, ok, err := m.commit(ctx, t, m.keys.shard(first.ID), first.Revision)
		if err != nil {
			fail(err)
			return
		}
		if ok {
			for _, i := range open {
				out[i].Shard = cs[i].Next
				out[i].Shard.Revision = rev
			}
			return
		}
		if open, err = m.stillOpen(ctx, as, cs, open, out); err != nil {
			fail(err)
			return
		}
	}
}

// stillOpen finds out why a batch was refused: ErrDeposed for all, or ErrStale for those whose record has moved on.
func (m *Map) stillOpen(ctx context.Context, as cluster.Controller, cs []Coronation, open []int, out []Crowned) ([]int, error) {
	ranges := []Range{Only(m.keys.of(keyController))}
	for _, i := range open {
		ranges = append(ranges, Only(m.keys.shard(cs[i].Seen.ID)))
	}
	records, _, err := m.kv.List(ctx, ranges...)
	if err != nil {
		return open, err
	}
	now := map[string]themis.Revision{}
	for _, r := range records {
		now[r.Key] = r.Revision
	}
	if now[m.keys.of(keyController)] != as.Revision {
		return open, deposed(as)
	}
	var rest []int
	for _, i := range open {
		s := cs[i].Seen
		if at := now[m.keys.shard(s.ID)]; at != s.Revision {
			out[i].Err = fmt.Errorf("crown: %w", stale(s, at))
			continue
		}
		rest = append(rest, i)
	}
	return rest, nil
}

// reign is the condition that the controller still is the one it thinks it is.
func (m *Map) reign(as cluster.Controller) Compare {
	return Compare{m.keys.of(keyController), as.Revision}
}

func deposed(as cluster.Controller) error {
	return themis.Errorf(themis.StalePlan, "term %d of %s: %w", as.Term, as.Node, ErrDeposed)
}

func stale(s cluster.Shard, now themis.Revision) error {
	return themis.Errorf(themis.StalePlan, "%s: seen at revision %d, is at %d: %w", s.ID, s.Revision, now, ErrStale).In(s.ID)
}

// ChangeShard is the primary's change of its in-sync set (cluster.Shard.RemoveFromISR, AddToISR) or of the policy in force to the one
// that is wanted (cluster.Shard.Adopt): if the record has the revision and the epoch that the primary knew. Everything else in the
// record must be as it was; a copy may only become a voter, or go because another took its place. Below the floor of SYNC a member
// leaves only by a verdict that stands in the map now, whatever the primary's view of it says: REFUSED_UNSAFE. It returns the record
// with its new revision.
func (m *Map) ChangeShard(ctx context.Context, seen, next cluster.Shard) (cluster.Shard, error) {
	if err := checkPrimaryChange(seen, next); err != nil {
		return cluster.Shard{}, err
	}
	now, at, _, err := read(ctx, m, m.keys.shard(seen.ID), cluster.Decode[cluster.Shard])
	if err != nil {
		return cluster.Shard{}, fmt.Errorf("change %s: %w", seen.ID, err)
	}
	if at.Revision != seen.Revision || now.Epoch != seen.Epoch || now.Primary != seen.Primary || now.Boot != seen.Boot {
		return cluster.Shard{}, fmt.Errorf("change %s in epoch %d: it is in epoch %d under %s: %w", seen.ID, seen.Epoch, now.Epoch, now.Primary, stale(seen, at.Revision))
	}
	t := Txn{}
	for _, gone := range seen.BelowFloor(next) {
		verdict, err := m.verdictOn(ctx, seen, gone)
		if err != nil {
			return cluster.Shard{}, fmt.Errorf("change %s: %w", seen.ID, err)
		}
		t.If = append(t.If, verdict)
	}
	return m.changeShard(ctx, seen, next, t)
}

// verdictOn is the condition that what says that the member's copy is lost still stands: the controller's verdict on its node, or
// that node's own word that the copy has stopped for good.
func (m *Map) verdictOn(ctx context.Context, s cluster.Shard, gone cluster.Member) (Compare, error) {
	_, failed, _, err := read(ctx, m, m.keys.failed(gone.Node), cluster.Decode[cluster.Failed])
	if err != nil {
		return Compare{}, err
	}
	if failed.Revision != 0 {
		return Compare{failed.Key, failed.Revision}, nil
	}
	a, alive, _, err := read(ctx, m, m.keys.alive(gone.Node), cluster.Decode[cluster.Alive])
	if err != nil {
		return Compare{}, err
	}
	if (cluster.View{Alive: map[themis.NodeID]cluster.Alive{gone.Node: a}}).Broken(s.ID, gone) != "" {
		return Compare{alive.Key, alive.Revision}, nil
	}
	return Compare{}, themis.Errorf(themis.RefusedUnsafe, "without %s fewer than %d in-sync members remain, and no verdict stands that its copy is lost [isr-floor]", gone.Node, 1+s.Have.K).In(s.ID)
}

func checkPrimaryChange(seen, next cluster.Shard) error {
	refuse := func(what string) error {
		return themis.Errorf(themis.PermissionDenied, "change %s: a primary can't change %s", seen.ID, what).In(seen.ID)
	}
	if next.Have != seen.Have {
		adopted, err := seen.Adopt()
		if err != nil {
			return err
		}
		adopted.Revision = next.Revision
		if !reflect.DeepEqual(adopted, next) {
			return refuse("the policy to another than is wanted, or with anything else")
		}
		return checkRecord("change", next)
	}
	rest := next // whatever fields a record may have: all but these two stay
	rest.ISR, rest.Replicas, rest.Revision = seen.ISR, seen.Replicas, seen.Revision
	if !reflect.DeepEqual(rest, seen) {
		return refuse("anything but its in-sync set")
	}
	for _, r := range next.Replicas {
		old, ok := seen.Replica(r.Node)
		if !ok || old.Member != r.Member {
			return refuse("which nodes have copies")
		}
	}
	return checkRecord("change", next)
}

// ChangeShardAs is the controller's change of a shard's copies and policy (cluster.Shard.Join, Drop, Rehouse, want and have):
// if the record is the one that was seen and the controller's record stands. The epoch stays, and so does the primary,
// unless its disk is gone. A node that gets a copy must be a member; should it be removed at the same time, one of the two
// is refused.
func (m *Map) ChangeShardAs(ctx context.Context, as cluster.Controller, seen, next cluster.Shard) (cluster.Shard, error) {
	switch {
	case seen.ID != next.ID, seen.Epoch != next.Epoch:
		return cluster.Shard{}, themis.Errorf(themis.InvalidArgument, "change %s: epoch %d to %d of %s; only a coronation begins an epoch", seen.ID, seen.Epoch, next.Epoch, next.ID).In(seen.ID)
	case (seen.Primary != next.Primary || seen.Boot != next.Boot) && !next.Primary.IsZero():
		return cluster.Shard{}, themis.Errorf(themis.InvalidArgument, "change %s: primary %s to %s; only a coronation makes a primary", seen.ID, seen.Primary, next.Primary).In(seen.ID)
	}
	if err := checkRecord("change", next); err != nil {
		return cluster.Shard{}, err
	}
	t := Txn{If: []Compare{m.reign(as)}}
	for _, r := range next.Replicas {
		if _, there := seen.Replica(r.Node); there {
			continue
		}
		// Written anew, so that RemoveNode, which compares this revision, sees that a shard came in between.
		node, err := m.kv.Get(ctx, m.keys.node(r.Node))
		if err != nil {
			return cluster.Shard{}, fmt.Errorf("change %s: %w", seen.ID, err)
		}
		if node.Revision == 0 {
			return cluster.Shard{}, themis.Errorf(themis.NotFound, "change %s: %s is no member", seen.ID, r.Node).In(seen.ID)
		}
		t.If = append(t.If, Compare{node.Key, node.Revision})
		t.Put = append(t.Put, Put{Key: node.Key, Value: node.Value})
	}
	out, err := m.changeShard(ctx, seen, next, t)
	if errors.Is(err, ErrStale) {
		if now, readErr := m.kv.Get(ctx, m.keys.of(keyController)); readErr == nil && now.Revision != as.Revision {
			err = fmt.Errorf("change %s: %w", seen.ID, deposed(as))
		}
	}
	return out, err
}

// AskPolicy changes what is wanted of shards (cluster.Shard.Ask), of all of them or of none: if each record is the one that was seen.
// Nothing else in a record may differ. At most MaxTxnOps shards go at once. On ErrStale nothing has been changed.
func (m *Map) AskPolicy(ctx context.Context, seen, next []cluster.Shard) error {
	if len(seen) == 0 {
		return nil
	}
	t := Txn{}
	for i, s := range seen {
		rest := next[i]
		rest.Want = s.Want
		if s.Revision == 0 {
			return unseen("ask", s)
		}
		if !reflect.DeepEqual(rest, s) {
			return themis.Errorf(themis.InvalidArgument, "ask %s: more than what is wanted differs", s.ID).In(s.ID)
		}
		if err := checkRecord("ask", next[i]); err != nil {
			return err
		}
		if err := m.replace(&t, s, next[i]); err != nil {
			return err
		}
	}
	_, ok, err := m.commit(ctx, t, m.keys.shard(seen[0].ID), seen[0].Revision)
	switch {
	case err != nil:
		return fmt.Errorf("ask: %w", err)
	case !ok:
		return themis.Errorf(themis.StalePlan, "a shard's record has changed meanwhile: %w", ErrStale)
	}
	return nil
}

// replace adds to t that the shard's record becomes next if it still is the one that was seen.
func (m *Map) replace(t *Txn, seen, next cluster.Shard) error {
	b, err := cluster.Encode(next)
	if err != nil {
		return err
	}
	key := m.keys.shard(seen.ID)
	if guard.On(guard.ISRVersion) {
		t.If = append(t.If, Compare{key, seen.Revision})
	}
	t.Put = append(t.Put, Put{Key: key, Value: b})
	return nil
}

// changeShard adds the shard's own compare and put to t and commits it.
func (m *Map) changeShard(ctx context.Context, seen, next cluster.Shard, t Txn) (cluster.Shard, error) {
	if seen.Revision == 0 {
		return cluster.Shard{}, unseen("change", seen)
	}
	key := m.keys.shard(seen.ID)
	if err := m.replace(&t, seen, next); err != nil {
		return cluster.Shard{}, err
	}
	rev, ok, err := m.commit(ctx, t, key, seen.Revision)
	switch {
	case err != nil:
		return cluster.Shard{}, fmt.Errorf("change %s: %w", seen.ID, err)
	case !ok:
		now, err := m.kv.Get(ctx, key)
		if err != nil {
			return cluster.Shard{}, fmt.Errorf("change %s: %w", seen.ID, errors.Join(stale(seen, 0), err))
		}
		return cluster.Shard{}, fmt.Errorf("change: %w", stale(seen, now.Revision))
	}
	next.Revision = rev
	return next, nil
}
