package cluster

import (
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Every event is told once, in whatever order they are written, as long as it is asked for.
func TestTrailTellsEachEventOnce(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(id string, after time.Duration) Event { return Event{ID: id, HLC: themis.HLCAt(noon.Add(after))} }
	a, b, late := at("a", 0), at("b", time.Second), at("late", 500*time.Millisecond)
	var trail Trail
	ids := func(events []Event) (out []string) {
		for _, e := range events {
			out = append(out, e.ID)
		}
		return out
	}
	for i, c := range []struct {
		asked []Event
		want  []string
	}{
		{[]Event{a}, []string{"a"}},
		{[]Event{a, b}, []string{"b"}},
		{[]Event{a, late, b}, []string{"late"}},
		{[]Event{a, late, b}, nil},
	} {
		if got := ids(trail.News(c.asked)); !slices.Equal(got, c.want) {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
	trail.Forget(b.HLC)
	if len(trail.told) != 1 {
		t.Errorf("still known: %v", trail.told)
	}
	if from := TrailFrom(b.HLC); from > late.HLC || from < themis.HLCAt(noon.Add(-TrailLate)) {
		t.Errorf("asked from %s", from.Time())
	}
	if TrailFrom(1) != 0 || TrailFrom(0) != 0 {
		t.Error("before the beginning")
	}
}
