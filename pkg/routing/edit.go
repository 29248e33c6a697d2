package routing

import (
	"slices"

	"github.com/themisdb/themis/pkg/themis"
)

// Move is a range that passes from one shard to another.
type Move struct {
	From   themis.Token   `json:"from"`
	To     themis.Token   `json:"to"`
	Source themis.ShardID `json:"source"`
	Target themis.ShardID `json:"target"`
}

// With is the next version, in which r.Shard owns r whoever owned it before. The range is merged with neighbours of the
// same shard. An inverted range or a name that isn't canonical is INVALID_ARGUMENT.
func (t *Table) With(r Range) (*Table, error) {
	if r.From > r.To {
		return nil, themis.Errorf(themis.InvalidArgument, "assign [%d, %d] to %s: from is behind to", r.From, r.To, r.Shard)
	}
	var out []Range
	for _, old := range t.Ranges() {
		if !old.Overlaps(r) {
			out = append(out, old)
			continue
		}
		if old.From < r.From {
			out = append(out, Range{old.From, r.From - 1, old.Shard})
		}
		if old.Contains(r.From) {
			out = append(out, r)
		}
		if old.To > r.To {
			out = append(out, Range{r.To + 1, old.To, old.Shard})
		}
	}
	return NewTable(t.version+1, join(out, r.From))
}

// join merges the range that begins at from with the neighbours of its own shard, and leaves all other bounds alone.
func join(ranges []Range, from themis.Token) []Range {
	i := slices.IndexFunc(ranges, func(r Range) bool { return r.From == from })
	lo, hi := i, i+1
	if lo > 0 && ranges[lo-1].Shard == ranges[i].Shard {
		lo--
	}
	if hi < len(ranges) && ranges[hi].Shard == ranges[i].Shard {
		hi++
	}
	whole := Range{ranges[lo].From, ranges[hi-1].To, ranges[i].Shard}
	return slices.Replace(ranges, lo, hi, whole)
}

// Move is With under the condition that m.Source owns the whole range now; otherwise STALE_PLAN, which names the owner
// found. It is what the cutover of a move does.
func (t *Table) Move(m Move) (*Table, error) {
	if m.Source == m.Target {
		return nil, themis.Errorf(themis.InvalidArgument, "move [%d, %d]: source and target are both %s", m.From, m.To, m.Source)
	}
	if m.From > m.To {
		return nil, themis.Errorf(themis.InvalidArgument, "move [%d, %d] to %s: from is behind to", m.From, m.To, m.Target)
	}
	for _, r := range t.Ranges() {
		if r.Overlaps(Range{From: m.From, To: m.To}) && r.Shard != m.Source {
			return nil, themis.Errorf(themis.StalePlan, "move [%d, %d] from %s to %s: %s owns [%d, %d] in routing version %d",
				m.From, m.To, m.Source, m.Target, r.Shard, max(r.From, m.From), min(r.To, m.To), t.version)
		}
	}
	return t.With(Range{m.From, m.To, m.Target})
}

// Split is the next version, in which a range ends at `at`. Owners don't change. Where a range ends there already, or at
// the last token, there is nothing to split: INVALID_ARGUMENT.
func (t *Table) Split(at themis.Token) (*Table, error) {
	r := t.Find(at)
	if r.To == at {
		return nil, themis.Errorf(themis.InvalidArgument, "split at %d: %s ends there already", at, r)
	}
	ranges := t.Ranges()
	i := slices.Index(ranges, r)
	return NewTable(t.version+1, slices.Replace(ranges, i, i+1, Range{r.From, at, r.Shard}, Range{at + 1, r.To, r.Shard}))
}

// Compact is the next version with all neighbours of one shard merged; the table itself when there are none.
func (t *Table) Compact() (*Table, error) {
	ranges := merge(t.Ranges())
	if len(ranges) == t.Len() {
		return t, nil
	}
	return NewTable(t.version+1, ranges)
}

// Changes lists the ranges whose owner differs between two tables, by token.
func Changes(before, after *Table) []Move {
	var out []Move
	for at := uint64(0); at < Space; {
		a, b := before.Find(themis.Token(at)), after.Find(themis.Token(at))
		to := min(a.To, b.To)
		if n := len(out); a.Shard != b.Shard {
			m := Move{themis.Token(at), to, a.Shard, b.Shard}
			if n > 0 && out[n-1].Source == m.Source && out[n-1].Target == m.Target && uint64(out[n-1].To)+1 == at {
				out[n-1].To = to
			} else {
				out = append(out, m)
			}
		}
		at = uint64(to) + 1
	}
	return out
}
