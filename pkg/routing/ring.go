package routing

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"

	"github.com/themisdb/themis/pkg/themis"
)

// Limits of a ring.
const (
	DefaultVirtualNodes = 150
	MaxVirtualNodes     = 4096
	MaxShards           = 1024
)

// point is one virtual node: it owns the tokens from behind the point before it up to its own.
type point struct {
	token themis.Token
	shard themis.ShardID
}

// Ring is a consistent-hash ring with virtual nodes. It is changed in place; one goroutine at a time may use it.
// Two virtual nodes on the same token both stay on the ring and the shard with the lower number owns the token, so the
// order in which shards were added makes no difference.
type Ring struct {
	vnodes map[themis.ShardID]int
	points []point // sorted by token, then shard number
}

// NewRing is a ring without shards.
func NewRing() *Ring { return &Ring{vnodes: map[themis.ShardID]int{}} }

// AddShard puts a shard on the ring with that many virtual nodes; 0 means 150. More virtual nodes mean a larger share.
func (r *Ring) AddShard(id themis.ShardID, vnodes int) error {
	if vnodes == 0 {
		vnodes = DefaultVirtualNodes
	}
	if err := checkShard(id); err != nil {
		return err
	}
	if vnodes < 1 || vnodes > MaxVirtualNodes {
		return themis.Errorf(themis.InvalidArgument, "%s: %d virtual nodes; want 1 to %d", id, vnodes, MaxVirtualNodes)
	}
	if _, ok := r.vnodes[id]; ok {
		return themis.Errorf(themis.InvalidArgument, "%s is on the ring already", id)
	}
	if err := checkCount(len(r.vnodes) + 1); err != nil {
		return err
	}
	r.vnodes[id] = vnodes
	added := make([]point, vnodes)
	for i := range added {
		added[i] = point{TokenOf(string(id) + "#" + strconv.Itoa(i)), id}
	}
	slices.SortFunc(added, comparePoints)
	r.points = mergePoints(r.points, added)
	return nil
}

func comparePoints(a, b point) int {
	return cmp.Or(cmp.Compare(a.token, b.token), compareShards(a.shard, b.shard))
}

func mergePoints(a, b []point) []point {
	out := make([]point, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if comparePoints(a[0], b[0]) <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// RemoveShard takes a shard off the ring. Its ranges fall to their neighbours; no other range moves.
func (r *Ring) RemoveShard(id themis.ShardID) error {
	if _, ok := r.vnodes[id]; !ok {
		return themis.Errorf(themis.NotFound, "%s is not on the ring", id)
	}
	delete(r.vnodes, id)
	r.points = slices.DeleteFunc(r.points, func(p point) bool { return p.shard == id })
	return nil
}

// Shards are the shards on the ring, by number.
func (r *Ring) Shards() []themis.ShardID {
	return slices.SortedFunc(maps.Keys(r.vnodes), compareShards)
}

// ShardForToken is the owner of a token; false when the ring is empty.
func (r *Ring) ShardForToken(t themis.Token) (themis.ShardID, bool) {
	if len(r.points) == 0 {
		return "", false
	}
	return r.points[r.at(t)].shard, true
}

// ShardForKey is the owner of a shard key; false when the ring is empty.
func (r *Ring) ShardForKey(key string) (themis.ShardID, bool) { return r.ShardForToken(TokenOf(key)) }

// ShardsForKey lists the first n distinct shards from the key's place onwards, its owner first. Fewer than n when the
// ring has fewer shards.
func (r *Ring) ShardsForKey(key string, n int) []themis.ShardID {
	n = min(n, len(r.vnodes))
	if n <= 0 {
		return nil
	}
	out := make([]themis.ShardID, 0, n)
	for i := r.at(TokenOf(key)); len(out) < n; i = (i + 1) % len(r.points) {
		if s := r.points[i].shard; !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// at is the index of the virtual node that owns t: the first at or behind it, the first of all behind the last.
func (r *Ring) at(t themis.Token) int {
	i := sort.Search(len(r.points), func(i int) bool { return r.points[i].token >= t })
	return i % len(r.points)
}

// Ranges is the ring as sorted ranges, neighbours of one shard merged: the placement before levelling.
func (r *Ring) Ranges() []Range {
	var out []Range
	from := uint64(0)
	for _, p := range r.points {
		if uint64(p.token) < from { // the token of the point before: that shard has the lower number
			continue
		}
		out = append(out, Range{themis.Token(from), p.token, p.shard})
		from = uint64(p.token) + 1
	}
	if len(out) > 0 && from < Space { // behind the last point the ring closes
		out = append(out, Range{themis.Token(from), MaxToken, out[0].Shard})
	}
	return merge(out)
}

// Place is the first routing table, version 1: the ring's ranges, levelled so that no shard is more than 2 % off its
// fair share (in proportion to virtual nodes), with as few tokens moved as that needs.
func (r *Ring) Place() (*Table, error) {
	if len(r.vnodes) == 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "place the first ranges: the ring has no shards")
	}
	return NewTable(1, level(r.Ranges(), r.vnodes))
}

// First is the first routing table of a cluster with shards shard-1 … shard-n of equal weight.
func First(n, vnodes int) (*Table, error) {
	if err := checkCount(n); err != nil {
		return nil, err
	}
	r := NewRing()
	for i := range n {
		if err := r.AddShard(ShardAt(i), vnodes); err != nil {
			return nil, fmt.Errorf("place %d shards: %w", n, err)
		}
	}
	return r.Place()
}
