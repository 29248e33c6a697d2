package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// TakeController begins the next term under node: if the controller's record is the one that was seen (the zero Controller
// where there was none). Of several that try only one wins; the others get ErrStale.
func (m *Map) TakeController(ctx context.Context, seen cluster.Controller, node themis.NodeID, boot themis.BootID) (cluster.Controller, error) {
	next := cluster.Controller{Format: cluster.Format, Term: seen.Term + 1, Node: node, Boot: boot}
	b, err := cluster.Encode(next)
	if err != nil {
		return cluster.Controller{}, err
	}
	key := m.keys.of(keyController)
	since := seen.Revision
	if since == 0 {
		if _, _, since, err = read(ctx, m, key, cluster.Decode[cluster.Controller]); err != nil {
			return cluster.Controller{}, fmt.Errorf("take controllership: %w", err)
		}
	}
	t := Txn{If: []Compare{{key, seen.Revision}}, Put: []Put{{Key: key, Value: b}}}
	rev, ok, err := m.commit(ctx, t, key, since)
	switch {
	case err != nil:
		return cluster.Controller{}, fmt.Errorf("take controllership: %w", err)
	case !ok:
		return cluster.Controller{}, themis.Errorf(themis.StalePlan, "take controllership after term %d: %w", seen.Term, ErrStale)
	}
	next.Revision = rev
	return next, nil
}

// DeclareFailed records the controller's verdict, while its record stands. A verdict on the same run of the process stays as
// it was first given.
func (m *Map) DeclareFailed(ctx context.Context, as cluster.Controller, f cluster.Failed) error {
	f.Term = as.Term
	return m.verdict(ctx, as, f.Node, func(old cluster.Failed, there bool) (*cluster.Failed, bool) {
		return &f, !there || old.Boot != f.Boot
	})
}

// ClearFailed takes the verdict back, while the controller's record stands. No verdict is no error.
func (m *Map) ClearFailed(ctx context.Context, as cluster.Controller, node themis.NodeID) error {
	return m.verdict(ctx, as, node, func(_ cluster.Failed, there bool) (*cluster.Failed, bool) { return nil, there })
}

// verdict writes what next makes of the present verdict, or removes it where that is nil.
func (m *Map) verdict(ctx context.Context, as cluster.Controller, node themis.NodeID, next func(old cluster.Failed, there bool) (_ *cluster.Failed, change bool)) error {
	key := m.keys.failed(node)
	for range swapTries {
		old, at, now, err := read(ctx, m, key, cluster.Decode[cluster.Failed])
		if err != nil {
			return fmt.Errorf("verdict on %s: %w", node, err)
		}
		f, change := next(old, at.Revision != 0)
		if !change {
			return nil
		}
		t := Txn{If: []Compare{m.reign(as), {key, at.Revision}}}
		if f == nil {
			t.Delete = []string{key}
		} else {
			b, err := cluster.Encode(f)
			if err != nil {
				return err
			}
			t.Put = []Put{{Key: key, Value: b}}
		}
		_, ok, err := m.commit(ctx, t, key, now)
		if err == nil && !ok {
			err = m.stillReigns(ctx, as)
		}
		if err != nil {
			return fmt.Errorf("verdict on %s: %w", node, err)
		}
		if ok {
			return nil
		}
	}
	return busy("verdict on " + string(node))
}

// stillReigns is ErrDeposed when the controller's record is another one by now.
func (m *Map) stillReigns(ctx context.Context, as cluster.Controller) error {
	now, err := m.kv.Get(ctx, m.keys.of(keyController))
	if err != nil {
		return err
	}
	if now.Revision != as.Revision {
		return deposed(as)
	}
	return nil
}

// Confirm makes the control plane agree once more that the controller's record is the one that was seen: by a transaction that
// changes nothing, but that goes the way of all others. ErrDeposed where the record is another one; any other error says nothing.
func (m *Map) Confirm(ctx context.Context, as cluster.Controller) error {
	ok, _, err := m.kv.Txn(ctx, Txn{If: []Compare{m.reign(as)}, Delete: []string{m.keys.of(keyNothing)}})
	if err != nil {
		return fmt.Errorf("confirm term %d: %w", as.Term, err)
	}
	if !ok {
		return deposed(as)
	}
	return nil
}

// ChangeRouting puts the next table in force, while the controller's record stands: if the table in force is version
// next.Version() - 1, and every owner is a shard.
func (m *Map) ChangeRouting(ctx context.Context, as cluster.Controller, next *routing.Table) error {
	v, err := m.View(ctx)
	if err != nil {
		return fmt.Errorf("change routing: %w", err)
	}
	was := v.Routing
	v.Routing = next
	switch faults := v.Check(); {
	case was == nil || was.Version()+1 != next.Version():
		return themis.Errorf(themis.StalePlan, "change routing: version %d is in force, %d can't follow it: %w", version(was), next.Version(), ErrStale)
	case len(faults) > 0:
		return themis.Errorf(themis.InvalidArgument, "change routing: %w", errors.Join(faults...))
	}
	head, err := m.kv.Get(ctx, m.keys.of(keyRouting))
	if err != nil {
		return fmt.Errorf("change routing: %w", err)
	}
	if head.Revision > v.Revision {
		return themis.Errorf(themis.StalePlan, "change routing: %w", ErrStale)
	}
	parts, put, err := splitRouting(m.keys, next)
	if err != nil {
		return fmt.Errorf("change routing: %w", err)
	}
	for _, p := range parts { // of no meaning until the head names them
		ok, _, err := m.kv.Txn(ctx, Txn{If: []Compare{m.reign(as)}, Put: []Put{p}})
		if err == nil && !ok {
			err = deposed(as)
		}
		if err != nil {
			return fmt.Errorf("change routing: %w", err)
		}
	}
	t := Txn{If: []Compare{m.reign(as), {head.Key, head.Revision}}, Put: []Put{put}}
	_, ok, err := m.commit(ctx, t, head.Key, head.Revision)
	if err == nil && !ok {
		err = errors.Join(m.stillReigns(ctx, as), themis.Errorf(themis.StalePlan, "version %d is no longer in force: %w", was.Version(), ErrStale))
	}
	if err != nil {
		return fmt.Errorf("change routing: %w", err)
	}
	return m.dropOldParts(ctx, as, next.Version())
}

func version(t *routing.Table) uint64 {
	if t == nil {
		return 0
	}
	return t.Version()
}

func (m *Map) dropOldParts(ctx context.Context, as cluster.Controller, inForce uint64) error {
	r := Range{From: m.keys.of(keyRouting + "/"), To: m.keys.routingPart(inForce, 0), KeysOnly: true, Limit: MaxTxnOps}
	old, _, err := m.kv.List(ctx, r)
	if err != nil || len(old) == 0 {
		return err
	}
	t := Txn{If: []Compare{m.reign(as)}}
	for _, o := range old {
		t.Delete = append(t.Delete, o.Key)
	}
	_, _, err = m.kv.Txn(ctx, t)
	return err
}
