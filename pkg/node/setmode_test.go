package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// between lets something happen right before the second transaction of a request.
type between struct {
	control.KV
	txns int
	do   func()
	gone bool // from the second on
}

func (b *between) Txn(ctx context.Context, t control.Txn) (bool, themis.Revision, error) {
	if b.txns++; b.txns == 2 && b.do != nil {
		b.do()
	}
	if b.gone && b.txns > 1 {
		return false, 0, errors.New("no quorum")
	}
	return b.KV.Txn(ctx, t)
}

// More shards than one transaction has: another change between the pieces is no fault, and the answer tells of all of them.
func TestSetModeOfManyShardsInPieces(t *testing.T) {
	const shards = control.MaxTxnOps + 10
	kv := &between{KV: control.NewMemory(time.Now)}
	m, err := control.NewMap(kv, "c-1", control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	founded, err := cluster.Found(cluster.Foundation{
		Name: "demo", Redundancy: "MIRROR", Shards: shards, ControlNodes: 1, Policy: cluster.Policy{Mode: themis.Sync, K: 1, RF: 2},
		Nodes: []cluster.Node{{Format: 1, ID: "node-1", Storage: "disk-1", Role: cluster.RoleActive, Control: &cluster.ControlMember{}}, {Format: 1, ID: "node-2", Storage: "disk-2", Role: cluster.RoleActive}},
	})
	if err != nil {
		t.Fatal(err)
	}
	table, err := routing.First(shards, 8)
	if err != nil {
		t.Fatal(err)
	}
	founded.Meta.ID = "c-1"
	if err := m.Init(t.Context(), control.First{Meta: founded.Meta, Nodes: founded.Nodes, Shards: founded.Shards, Routing: table}); err != nil {
		t.Fatal(err)
	}
	n := &Node{log: slog.New(slog.DiscardHandler), events: make(chan cluster.Event, 8)}
	n.m.Store(m)
	kv.txns, kv.do = 0, func() { // another operator's, of a shard of the second piece
		v, err := m.View(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		s := v.ShardList()[shards-1]
		next, err := s.Ask(themis.SemiSync, 1)
		if err == nil {
			err = m.AskPolicy(t.Context(), []cluster.Shard{s}, []cluster.Shard{next})
		}
		if err != nil {
			t.Error(err)
		}
	}
	out, err := n.setMode(t.Context(), setModeArgs{Mode: themis.Async}, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range out.Shards {
		was := themis.Sync
		if i == shards-1 {
			was = themis.SemiSync
		}
		if !s.Changed || s.Before.Mode != was || s.Want.Mode != themis.Async {
			t.Errorf("%+v", s)
		}
	}
	v, err := m.View(t.Context())
	if err != nil || len(out.Shards) != shards {
		t.Fatal(len(out.Shards), err)
	}
	for _, s := range v.ShardList() {
		if s.Want.Mode != themis.Async {
			t.Errorf("%s wants %+v", s.ID, s.Want)
		}
	}

	kv.txns, kv.do, kv.gone = 0, nil, true
	<-n.events
	_, err = n.setMode(t.Context(), setModeArgs{Mode: themis.Sync}, false)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(control.MaxTxnOps)+" shards were changed, then: ") {
		t.Errorf("broken off between the pieces: %v", err)
	}
	select {
	case e := <-n.events:
		if e.Action != "set_mode" || e.Outcome != "failed" || !strings.Contains(e.Subject, fmt.Sprintf("and %d more", control.MaxTxnOps-1)) {
			t.Errorf("the trail: %+v", e)
		}
	default:
		t.Error("nothing is in the trail of what was changed")
	}
}
