package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/themis"
)

// A watch tells every event once that is written after it began, also one that happened before others which were written first: at a
// node whose clock is behind, or that could not reach the control plane.
func TestEventsThatAreWrittenLateAreTold(t *testing.T) {
	away := false
	kv := &control.Faulty{KV: control.NewMemory(nil), Before: func(_ context.Context, c control.Call) error {
		if c == control.CallList && away {
			return errors.New("no quorum")
		}
		return nil
	}}
	t.Cleanup(func() { _ = kv.Close() })
	m, err := control.NewMap(kv, "c1", control.Options{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	put := func(subject string, age time.Duration) {
		e := cluster.Event{HLC: themis.HLCAt(now.Add(-age)), Time: now.Add(-age), Actor: cluster.Actor{Kind: "node", ID: "node-1"}, Action: "test", Subject: subject, Outcome: "done"}
		if _, err := m.AppendEvent(t.Context(), "node-1", e); err != nil {
			t.Fatal(err)
		}
	}
	behind := themis.HLCAt(now.Add(-10 * time.Second))
	f := trailFollower{behind: behind, floor: cluster.TrailFrom(behind)}
	told := func(want ...string) {
		t.Helper()
		var got []string
		for _, e := range f.next(t.Context(), m) {
			got = append(got, e.Subject)
		}
		if !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
	}
	put("long ago", 30*time.Second)
	put("since", 5*time.Second)
	told("since")
	told()
	put("second", time.Second)
	told("second")
	put("first, behind what was told", 2*time.Second)
	put("before the watch began, written now", 15*time.Second)
	told("before the watch began, written now", "first, behind what was told")
	away = true
	put("unseen", 0)
	told()
	away = false
	told("unseen")
	for i := range 2 * eventsMost {
		put(fmt.Sprint(i), -time.Duration(i)*time.Millisecond)
	}
	put("late, before a burst", 20*time.Second)
	burst := map[string]bool{}
	for _, want := range []int{eventsMost, eventsMost, 1, 0} {
		events := f.next(t.Context(), m)
		if len(events) != want {
			t.Errorf("%d events in one frame, want %d", len(events), want)
		}
		for _, e := range events {
			burst[e.Subject] = true
		}
	}
	if len(burst) != 2*eventsMost+1 {
		t.Errorf("%d events of a burst were told, want %d", len(burst), 2*eventsMost+1)
	}
}

// What happened while the control plane was away, for however long, is written when it is back, and told then.
func TestEventsOfAnOutageAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := false
		kv := &control.Faulty{KV: control.NewMemory(nil), Before: func(context.Context, control.Call) error {
			if away {
				return errors.New("no quorum")
			}
			return nil
		}}
		defer kv.Close() //nolint:errcheck // in memory
		m, err := control.NewMap(kv, "c1", control.Options{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		now := themis.HLCAt(time.Now())
		f := trailFollower{behind: now, floor: cluster.TrailFrom(now)}
		var told []string
		watch := func(long time.Duration) {
			for range long / time.Second {
				for _, e := range f.next(t.Context(), m) {
					told = append(told, e.Subject)
				}
				time.Sleep(time.Second) // virtual
			}
		}
		watch(3 * time.Minute)
		away = true
		then := time.Now()
		watch(20 * time.Minute)
		away = false
		watch(5 * time.Second)
		e := cluster.Event{HLC: themis.HLCAt(then.Add(time.Second)), Time: then, Actor: cluster.Actor{Kind: "node", ID: "node-2"}, Action: "test", Subject: "in the outage", Outcome: "done"}
		if _, err := m.AppendEvent(t.Context(), "node-2", e); err != nil {
			t.Fatal(err)
		}
		watch(3 * time.Minute)
		if !slices.Equal(told, []string{"in the outage"}) {
			t.Errorf("told %v", told)
		}
		if f.floor < cluster.TrailFrom(themis.HLCAt(time.Now().Add(-2*time.Second))) {
			t.Errorf("minutes later it still asks from %s", f.floor.Time())
		}
	})
}
