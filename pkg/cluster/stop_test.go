package cluster

import (
	"reflect"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func TestDuties(t *testing.T) {
	three := []Member{viewMember(1), viewMember(2), viewMember(3)}
	for name, c := range map[string]struct {
		change func(*View, *Shard)
		want   Duties
	}{
		"it leads":                              {func(_ *View, s *Shard) { s.Primary = viewMember(1) }, Duties{Lead: []themis.ShardID{"shard-1"}}},
		"another process of it led":             {func(_ *View, s *Shard) { s.Primary, s.Boot = viewMember(1), "old" }, Duties{}},
		"it leads, and the others stop too":     {func(v *View, s *Shard) { s.Primary = viewMember(1); stops(v, "node-2", "node-3") }, Duties{}},
		"it leads, and one other stays":         {func(v *View, s *Shard) { s.Primary = viewMember(1); stops(v, "node-2") }, Duties{Lead: []themis.ShardID{"shard-1"}}},
		"it leads alone in sync":                {func(_ *View, s *Shard) { s.Primary, s.ISR = viewMember(1), three[:1] }, Duties{}},
		"it leads under SEMI_SYNC":              {func(_ *View, s *Shard) { s.Primary, s.ISR, s.Have.Mode = viewMember(1), three[:1], themis.SemiSync }, Duties{Lead: []themis.ShardID{"shard-1"}}},
		"the other in sync is FAILED":           {func(v *View, s *Shard) { s.Primary, s.ISR = viewMember(1), three[:2]; v.Failed["node-2"] = Failed{} }, Duties{}},
		"it counts, and is not needed":          {func(_ *View, s *Shard) { s.Primary = viewMember(2) }, Duties{Count: []themis.ShardID{"shard-1"}}},
		"it counts, and is needed":              {func(_ *View, s *Shard) { s.Primary, s.ISR = viewMember(2), three[:2] }, Duties{}},
		"it counts, under a primary that stops": {func(v *View, s *Shard) { s.Primary = viewMember(2); stops(v, "node-2") }, Duties{}},
		"it is not in sync":                     {func(_ *View, s *Shard) { s.Primary, s.ISR = viewMember(2), three[1:] }, Duties{}},
		"its disk is another":                   {func(_ *View, s *Shard) { s.Primary, s.ISR[0].Storage = viewMember(2), "new" }, Duties{}},
		"nobody ever led":                       {func(_ *View, s *Shard) { s.Epoch = 0 }, Duties{}},
	} {
		v := soundView(t)
		s := Shard{ID: "shard-1", Epoch: 2, Boot: "b", ISR: append([]Member{}, three...), Have: Policy{Mode: themis.Sync, K: 1, RF: 3}}
		for _, m := range three {
			s.Replicas = append(s.Replicas, Replica{Member: m, Class: Voter})
		}
		c.change(&v, &s)
		v.Shards = map[themis.ShardID]Shard{"shard-1": s}
		if got := v.Duties("node-1", "b"); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func stops(v *View, nodes ...themis.NodeID) {
	for _, n := range nodes {
		v.Alive[n] = Alive{Node: n, Stopping: &Stopping{}}
	}
}
