package replication

import (
	"context"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/themis"
)

// lateRegistry answers a removal only when it is let, and says then what it is told to; policy changes are taken, but no answer comes.
type lateRegistry struct {
	let    chan error
	policy chan cluster.Shard
}

func (s *lateRegistry) ChangeShard(ctx context.Context, seen, next cluster.Shard) (cluster.Shard, error) {
	if seen.Have != next.Have {
		select {
		case s.policy <- next:
		default:
		}
		<-ctx.Done()
		return cluster.Shard{}, themis.Errorf(themis.OutcomeUnknown, "no answer")
	}
	return cluster.Shard{}, <-s.let
}

func lateRefusal(t *testing.T, verdict error) {
	r := NewReign(shardOf(themis.SemiSync, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 1)
	heard(r, "c", 1, 0, 1)
	grow(r, 5, 2)
	heard(r, "b", 5, 2, 3)
	removal := r.Next(at(1500)) // c is late
	if removal == nil || removal.Member != member("c") || removal.Add {
		t.Fatalf("%+v", removal)
	}
	reg := &lateRegistry{let: make(chan error), policy: make(chan cluster.Shard, 1)}
	rg := &reigning{r: &Replica{o: Options{Registry: reg}.withDefaults()}, ctx: t.Context(), core: r}
	done := make(chan error)
	go func() { done <- rg.propose(removal) }()

	// An operator asks for SYNC: the record is newer, and the watch brings it before the removal's answer comes.
	rg.mu.Lock()
	asked, err := r.Shard().Ask(themis.Sync, 1)
	if err != nil {
		t.Fatal(err)
	}
	asked.Revision++
	if err := r.Learn(asked, nil, at(1510)); err != nil {
		t.Fatal(err)
	}
	heard(r, "c", 5, 1500, 1515) // c is back
	adopt := r.Next(at(1520))
	if adopt == nil || !adopt.Policy() {
		t.Fatalf("%+v", adopt)
	}
	rg.mu.Unlock()
	pctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	prg := &reigning{r: rg.r, ctx: pctx, core: r}
	go func() { _ = prg.propose(adopt) }()
	record := <-reg.policy // the control plane has taken SYNC; its answer is lost
	record.Revision = 12

	reg.let <- verdict // and now comes the removal's answer
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	rg.mu.Lock()
	defer rg.mu.Unlock()
	if r.flying != adopt {
		t.Errorf("the answer to the removal has settled the change of the policy, whose outcome is not known")
	}
	grow(r, 8, 1600)
	heard(r, "b", 8, 1600, 1601)
	acked := r.Commit()
	// a is killed now
	res := election.Count(election.Request{Shard: record, Epoch: 4, Ballots: []election.Ballot{
		{Shard: "shard-1", Voter: member("c"), Epoch: 4, Last: themis.Position{Epoch: 3, Seq: 5}},
	}})
	if acked > 5 && res.Winner != nil {
		t.Errorf("acknowledged up to %d under SEMI_SYNC; %s is elected under %s with seq %d", acked, res.Winner.Voter, res.Rule, res.Winner.Last.Seq)
	}
}

// A removal is refused long after a newer record has settled it; by then a change of the mode is on its way, whose outcome stays open.
func TestALateRefusalSettlesItsOwnProposalAlone(t *testing.T) {
	t.Run("stale", func(t *testing.T) { lateRefusal(t, themis.Errorf(themis.StalePlan, "seen at 10, is at 11")) })
	t.Run("refused", func(t *testing.T) { lateRefusal(t, themis.Errorf(themis.RefusedUnsafe, "no verdict")) })
}
