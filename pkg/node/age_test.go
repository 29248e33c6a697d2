package node

import (
	"testing"
	"time"
)

func TestAgeEvery(t *testing.T) {
	for _, c := range []struct {
		nodes      int
		took, want time.Duration
	}{
		{3, 5 * time.Millisecond, time.Second},
		{20, 0, time.Second},
		{60, 0, 3 * time.Second},
		{3, 600 * time.Millisecond, 2400 * time.Millisecond},
		{200, 0, 10 * time.Second},
		{5000, 0, 10 * time.Second},
		{3, time.Minute, 10 * time.Second},
	} {
		if got := ageEvery(c.nodes, c.took); got != c.want {
			t.Errorf("with %d nodes, after %s: every %s, want %s", c.nodes, c.took, got, c.want)
		}
	}
}
