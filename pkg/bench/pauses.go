package bench

import (
	"fmt"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// Spread is how pauses lie, in ms.
type Spread struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

func spread(list []float64) Spread {
	if len(list) == 0 {
		return Spread{}
	}
	slices.Sort(list)
	rank := func(q float64) float64 { return list[min(max(int(q*float64(len(list))+0.999999)-1, 0), len(list)-1)] }
	return Spread{rank(0.5), rank(0.99), list[len(list)-1]}
}

// Group is what clients saw of shards of one kind in kills of one kind.
type Group struct {
	Was    Was          `json:"was"`  // what the shards had on the killed node
	Also   string       `json:"also"` // what the node was besides
	Kills  int          `json:"kills"`
	Shards int          `json:"shards"` // pauses that were measured: one for each shard of the kind in each kill
	Read   Spread       `json:"read"`
	Write  Spread       `json:"write"`
	Copied themis.Bytes `json:"copied_bytes"` // in the kill that copied most for one shard
}

// Also names what the killed node was besides a holder of shards.
func (k Kill) Also() string {
	switch {
	case k.EtcdLeader && k.Controller:
		return "etcd leader and controller"
	case k.EtcdLeader:
		return "etcd leader"
	case k.Controller:
		return "controller"
	}
	return "neither"
}

const anything = "any"

// groups sums up: for each kind of shard all kills, then the kinds of kill.
func groups(kills []Kill) []Group {
	var out []Group
	for _, was := range []Was{WasPrimary, WasFollower, WasNone} {
		for _, also := range []string{anything, "neither", "controller", "etcd leader", "etcd leader and controller"} {
			if g := group(kills, was, also); g.Shards > 0 {
				out = append(out, g)
			}
		}
	}
	return out
}

func group(kills []Kill, was Was, also string) Group {
	g := Group{Was: was, Also: also}
	var reads, writes []float64
	for _, k := range kills {
		if also != anything && k.Also() != also {
			continue
		}
		before := len(reads)
		for _, s := range k.Shards {
			if s.Was == was {
				reads, writes = append(reads, s.ReadMs), append(writes, s.WriteMs)
				g.Copied = max(g.Copied, s.CopiedBytes)
			}
		}
		if len(reads) > before {
			g.Kills++
		}
	}
	g.Shards, g.Read, g.Write = len(reads), spread(reads), spread(writes)
	return g
}

// Bound is one promise and what was measured.
type Bound struct {
	What  string  `json:"what"`
	Ms    float64 `json:"ms"`
	Limit float64 `json:"limit_ms"`
	Met   bool    `json:"met"`
}

// The limits of pauses, in ms.
const (
	limitP50  = 3000
	limitP99  = 8000
	limitNone = 100
)

// bounds judges a series: reads, and from three copies on writes too, of shards whose primary was killed; and that shards
// without a copy on the killed node notice nothing, unless etcd had to elect as well.
func bounds(rf int, kills []Kill) []Bound {
	var out []Bound
	add := func(what string, ms, limit float64) { out = append(out, Bound{what, ms, limit, ms <= limit}) }
	if g := group(kills, WasPrimary, anything); g.Shards > 0 {
		add("strong reads where the primary was killed, p50", g.Read.P50, limitP50)
		add("strong reads where the primary was killed, p99", g.Read.P99, limitP99)
		if rf > 2 {
			add("writes where the primary was killed, p50", g.Write.P50, limitP50)
			add("writes where the primary was killed, p99", g.Write.P99, limitP99)
		}
	}
	var worst float64
	n := 0
	for _, k := range kills {
		for _, s := range k.Shards {
			if s.Was == WasNone && !k.EtcdLeader {
				worst, n = max(worst, s.ReadMs, s.WriteMs), n+1
			}
		}
	}
	if n > 0 {
		add("shards without a copy on the killed node, etcd's leader elsewhere, longest pause", worst, limitNone)
	}
	return out
}

// line is one kill in one line.
func (k Kill) line() string {
	parts := []string{fmt.Sprintf("%s, %s", k.Node, k.Also())}
	for _, was := range []Was{WasPrimary, WasFollower, WasNone} {
		g := group([]Kill{k}, was, anything)
		if g.Shards == 0 {
			continue
		}
		text := fmt.Sprintf("%d as %s: read %.0f ms, write %.0f ms", g.Shards, was, g.Read.Max, g.Write.Max)
		if g.Copied > 0 {
			text += fmt.Sprintf(" with %d KB copied", g.Copied>>10)
		}
		parts = append(parts, text)
	}
	return strings.Join(append(parts, fmt.Sprintf("before %.0f ms, disk %.0f ms", k.QuietMs, k.DiskMs)), "; ")
}
