package election

import (
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Who would lead without a is what an election says of the others' logs; a's own log counts for nothing.
func TestForecast(t *testing.T) {
	shard := func(mode themis.Mode, isr ...string) cluster.Shard {
		s := cluster.Shard{ID: "shard-1", Epoch: 6, Primary: disk("a"), Have: cluster.Policy{Mode: mode, K: 1, RF: 3}}
		for _, v := range []string{"a", "b", "c"} {
			s.Replicas = append(s.Replicas, cluster.Replica{Member: disk(v), Class: cluster.Voter})
		}
		for _, v := range isr {
			s.ISR = append(s.ISR, disk(v))
		}
		return s
	}
	at := func(n string, seq themis.Seq) Standing {
		return Standing{Member: disk(n), Last: themis.Position{Epoch: 6, Seq: seq}}
	}
	silent := Standing{Member: disk("b"), Bars: "does not answer"}
	for name, c := range map[string]struct {
		shard cluster.Shard
		known []Standing
		want  []string
	}{
		"sync":                       {shard(themis.Sync, "a", "c"), []Standing{at("a", 9), at("b", 9), at("c", 8)}, []string{"winner c (6, 8)", "b: not in the in-sync set [isr]", "a: leads now"}},
		"sync, nobody":               {shard(themis.Sync, "a"), []Standing{at("a", 9), at("b", 9), at("c", 9)}, []string{"nobody: 0 of 1 ballots that count [sync]", "a: leads now"}},
		"semi_sync":                  {shard(themis.SemiSync, "a"), []Standing{at("a", 9), at("b", 7), at("c", 8)}, []string{"winner c (6, 8)", "b: last seq 7 < 8 [most-advanced]"}},
		"semi_sync, too few ballots": {shard(themis.SemiSync, "a"), []Standing{at("a", 9), silent, at("c", 8)}, []string{"nobody: 1 of 2 ballots", "b: no ballot: does not answer [ballot]"}},
		"async":                      {shard(themis.Async, "a"), []Standing{at("a", 9), silent, at("c", 8)}, []string{"winner c (6, 8), may lose"}},
	} {
		got := picture(Forecast(c.shard, c.known, nil))
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in\n%s", name, w, got)
			}
		}
	}
}
