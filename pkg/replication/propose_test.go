package replication

import (
	"context"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// late is a control plane that takes the first proposal without saying so, and then another's change on top of it.
type late struct{ asked int }

func (l *late) ChangeShard(context.Context, cluster.Shard, cluster.Shard) (cluster.Shard, error) {
	if l.asked++; l.asked == 1 {
		return cluster.Shard{}, themis.Errorf(themis.OutcomeUnknown, "no answer")
	}
	return cluster.Shard{}, themis.Errorf(themis.StalePlan, "seen at revision 10, is at 12")
}

// That a record has changed says nothing of a proposal whose first try had an unknown outcome: c may be in the in-sync set, and elected.
func TestAStaleProposalCountsUntilTheRecordIsLearned(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 1)
	heard(r, "c", 1, 0, 1)
	p := r.Next(at(2))
	if p == nil || !p.Add {
		t.Fatalf("%+v", p)
	}
	rg := &reigning{r: &Replica{o: Options{Registry: &late{}}.withDefaults()}, ctx: t.Context(), core: r}
	if err := rg.propose(p); err != nil {
		t.Fatal(err)
	}
	grow(r, 5, 3)
	heard(r, "b", 5, 3, 4)
	if r.Commit() != 1 {
		t.Fatalf("commit %d without c, which the record may have by now", r.Commit())
	}
	record := r.Shard()
	record.Revision += 2
	if err := r.Learn(record, nil, at(5)); err != nil { // it has not: the other's change came first
		t.Fatal(err)
	}
	if r.Commit() != 5 {
		t.Fatalf("commit %d with all that are in sync", r.Commit())
	}
}

// A removal counts by the old set whatever became of it, and is settled at once: it may have been refused for another reason than a
// newer record, and nothing more would come.
func TestAStaleRemovalIsSettled(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 1)
	heard(r, "c", 1, 0, 1)
	grow(r, 5, 2)
	heard(r, "b", 5, 2, 3)
	p := r.Next(at(5000))
	if p == nil || p.Add || p.Member != member("c") {
		t.Fatalf("%+v", p)
	}
	rg := &reigning{r: &Replica{o: Options{Registry: &late{asked: 1}}.withDefaults()}, ctx: t.Context(), core: r}
	if err := rg.propose(p); err != nil {
		t.Fatal(err)
	}
	if again := r.Next(at(5001)); again == nil || again.Member != p.Member {
		t.Fatalf("%+v: it is not proposed again", again)
	}
	if r.Commit() != 1 {
		t.Fatalf("commit %d without c", r.Commit())
	}
}
