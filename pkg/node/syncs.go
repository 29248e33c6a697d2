package node

import (
	"slices"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/health"
)

const (
	syncsKept = 16
	syncsFor  = 30 * time.Second // older ones say nothing of the disk as it is
	syncsMin  = 3
)

// syncs are how long the newest syncs of logs took.
type syncs struct {
	mu   sync.Mutex
	last [syncsKept]timedSync // a ring
	n    int
}

type timedSync struct {
	at   time.Time
	took time.Duration
}

func (s *syncs) took(took time.Duration, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[s.n%syncsKept] = timedSync{now, took}
	s.n++
}

// tells is what health says of a slow disk; nil while it is not.
func (s *syncs) tells(dir string, now time.Time) *health.DiskSlow {
	s.mu.Lock()
	defer s.mu.Unlock()
	var took []time.Duration
	for _, x := range s.last[:min(s.n, syncsKept)] {
		if now.Sub(x.at) < syncsFor {
			took = append(took, x.took)
		}
	}
	slices.Sort(took)
	if len(took) < syncsMin || took[len(took)/2] < health.SlowSync {
		return nil
	}
	return &health.DiskSlow{Dir: dir, SyncMs: took[len(took)/2].Milliseconds(), Syncs: len(took)}
}
