package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/themis"
)

// setModeArgs is what `replication set-mode` asks for.
type setModeArgs struct {
	Mode       themis.Mode      `json:"mode"`
	K          *int             `json:"min_sync_replicas"` // null: as it is, at least 1 where the mode waits for followers
	Shards     []themis.ShardID `json:"shards"`            // none: all
	SyncShards []themis.ShardID `json:"sync_shards"`       // under hybrid: these are sync, the others async
}

// setModeResult says what is wanted of each shard now, and what is in force.
type setModeResult struct {
	DryRun bool            `json:"dry_run"`
	Shards []cluster.Asked `json:"shards"`
}

const askTries = 20 // another change of one of the records came in between

// setMode changes what is wanted of shards, of all that are named or of none. Each shard's primary puts it in force, without a
// restart, once everything that was committed is held as it demands; until then what was in force stays. With dry it says what would
// be wanted, or why it may not be, and changes nothing.
func (n *Node) setMode(ctx context.Context, a setModeArgs, dry bool) (*setModeResult, error) {
	changed := map[themis.ShardID]cluster.Policy{} // by this request already, in an earlier try: what was wanted before
	for range askTries {
		m, v, err := n.freshView(ctx)
		if err != nil {
			return nil, n.halfAsked(ctx, changed, err)
		}
		out, seen, next, err := a.plan(v)
		if err != nil {
			return nil, n.halfAsked(ctx, changed, err)
		}
		out.DryRun = dry
		out.changedBefore(changed)
		if dry || len(next)+len(changed) == 0 {
			return out, nil
		}
		if err := askAll(ctx, m, seen, next, changed); errors.Is(err, control.ErrStale) {
			continue
		} else if err != nil {
			return nil, n.halfAsked(ctx, changed, n.noControl(err))
		}
		n.event(cluster.Event{Actor: operator(ctx, ""), Action: "set_mode", Subject: out.subject(), Outcome: "done", Rule: "mode-waits", After: asJSON(out.Shards)})
		return out, nil
	}
	return nil, n.halfAsked(ctx, changed, themis.Errorf(themis.StalePlan, "the records of the shards change too fast").Do("run the same command again"))
}

// halfAsked tells, where a request in pieces breaks off, which shards were changed by then.
func (n *Node) halfAsked(ctx context.Context, changed map[themis.ShardID]cluster.Policy, err error) error {
	if len(changed) == 0 {
		return err
	}
	ids := slices.Sorted(maps.Keys(changed))
	n.event(cluster.Event{Actor: operator(ctx, ""), Action: "set_mode", Subject: fmt.Sprintf("%s and %d more", ids[0], len(ids)-1), Outcome: "failed", Rule: "mode-waits", Reason: err.Error(), After: asJSON(ids)})
	return themis.Errorf(themis.CodeOf(err), "%d shards were changed, then: %w", len(changed), err).Do("run the same command again: what is done already stays")
}

// askAll is one transaction for as many shards as one may have. It notes in changed what was wanted of those that are done.
func askAll(ctx context.Context, m *control.Map, seen, next []cluster.Shard, changed map[themis.ShardID]cluster.Policy) error {
	for at := 0; at < len(seen); at += control.MaxTxnOps {
		end := min(at+control.MaxTxnOps, len(seen))
		if err := m.AskPolicy(ctx, seen[at:end], next[at:end]); err != nil {
			return err
		}
		for _, s := range seen[at:end] {
			changed[s.ID] = s.Want
		}
	}
	return nil
}

// changedBefore tells of shards that an earlier try of the same request has changed what was wanted of them then.
func (r *setModeResult) changedBefore(before map[themis.ShardID]cluster.Policy) {
	for i := range r.Shards {
		if was, ok := before[r.Shards[i].Shard]; ok {
			r.Shards[i].Before, r.Shards[i].Changed = was, true
		}
	}
}

// plan says what would be wanted of each shard, and gives the records that change; every fault is found before anything is changed.
func (a setModeArgs) plan(v cluster.View) (out *setModeResult, seen, next []cluster.Shard, err error) {
	k := -1
	if a.K != nil {
		k = *a.K
	}
	var faults []error
	for _, id := range slices.Concat(a.Shards, a.SyncShards) {
		if _, ok := v.Shards[id]; !ok {
			faults = append(faults, themis.Errorf(themis.NotFound, "there is no shard %q", id).Do("themis-cli shard list"))
		}
	}
	if a.Mode != themis.Hybrid && len(a.SyncShards) > 0 {
		faults = append(faults, themis.Errorf(themis.InvalidArgument, "sync_shards: only under hybrid; the mode is %s", a.Mode))
	}
	ids := a.Shards
	if len(ids) == 0 {
		ids = v.ShardIDs()
	}
	out = &setModeResult{Shards: []cluster.Asked{}}
	for _, id := range ids {
		s, ok := v.Shards[id]
		if !ok {
			continue
		}
		mode := a.Mode
		if mode == themis.Hybrid {
			mode = themis.Async
			if slices.Contains(a.SyncShards, id) {
				mode = themis.Sync
			}
		}
		asked, err := s.Ask(mode, k)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		out.Shards = append(out.Shards, cluster.Asked{Shard: id, Before: s.Want, Want: asked.Want, Have: s.Have, Changed: asked.Want != s.Want})
		if asked.Want != s.Want {
			seen, next = append(seen, s), append(next, asked)
		}
	}
	return out, seen, next, errors.Join(faults...)
}

// subject names the shards that change, all or some.
func (r *setModeResult) subject() string {
	var names []string
	for _, s := range r.Shards {
		if s.Changed {
			names = append(names, string(s.Shard))
		}
	}
	if len(names) > 8 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:8], ","), len(names)-8)
	}
	return strings.Join(names, ",")
}
