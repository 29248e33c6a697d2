package control

import (
	"context"
	"fmt"
	"maps"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// ApplySettings puts a configuration in force: if the version in force is seen (0 where there is none). It returns the
// settings with their version, seen + 1. The same values again change nothing.
func (m *Map) ApplySettings(ctx context.Context, seen uint64, next cluster.Settings) (cluster.Settings, error) {
	key := m.keys.of(keySettings)
	old, at, now, err := read(ctx, m, key, cluster.Decode[cluster.Settings])
	switch {
	case err != nil:
		return cluster.Settings{}, fmt.Errorf("apply settings: %w", err)
	case old.Version != seen:
		return cluster.Settings{}, staleSettings(seen, old.Version)
	case at.Revision != 0 && maps.Equal(old.Values, next.Values):
		return old, nil
	}
	next.Format, next.Version = cluster.Format, seen+1
	b, err := cluster.Encode(next)
	if err != nil {
		return cluster.Settings{}, err
	}
	_, ok, err := m.commit(ctx, Txn{If: []Compare{{key, at.Revision}}, Put: []Put{{Key: key, Value: b}}}, key, now)
	switch {
	case err != nil:
		return cluster.Settings{}, fmt.Errorf("apply settings: %w", err)
	case !ok:
		return cluster.Settings{}, staleSettings(seen, seen+1)
	}
	return next, nil
}

func staleSettings(seen, now uint64) error {
	return themis.Errorf(themis.StalePlan, "apply settings: made from version %d, at least %d is in force: %w", seen, now, ErrStale).Do("themis-cli config show")
}
