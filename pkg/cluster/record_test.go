package cluster

import (
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func TestCheckShardKey(t *testing.T) {
	none, rule := Collection{}, Collection{Name: "orders", ShardKey: "customer"}
	for _, c := range []struct {
		in            Collection
		shardKey, key string
		why           string // empty: it is right
	}{
		{none, "", "a", ""},
		{none, "a", "a", ""},
		{none, "b", "a", `shard_key "b": collection orders places its documents by their keys`},
		{rule, "", "a", "shard_key: missing; collection orders places its documents by customer"},
		{rule, "b", "a", ""},
		{rule, "a", "a", ""},
	} {
		err := c.in.CheckShardKey("orders", c.shardKey, c.key)
		if c.why == "" != (err == nil) || err != nil && (themis.CodeOf(err) != themis.InvalidArgument || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("rule %q, shard key %q of %q: %v, want %q", c.in.ShardKey, c.shardKey, c.key, err, c.why)
		}
	}
}
