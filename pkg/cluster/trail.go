package cluster

import (
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// TrailLate is how much later than it happened an event may be written and still reach whoever follows the trail: clocks differ, and a
// node that can't reach the control plane writes when it can again.
const TrailLate = time.Minute

// Trail is what a follower of the audit trail was told already. Events are dated when and where they happen and written later, so that
// their order is not that in which they are written: a follower asks again for those of the last TrailLate, and is told each once.
// The zero Trail knows of none. It is not safe for concurrent use.
type Trail struct {
	told map[string]themis.HLC // by id
}

// News are the events that were not told yet; now they are.
func (t *Trail) News(events []Event) (out []Event) {
	if t.told == nil {
		t.told = map[string]themis.HLC{}
	}
	for _, e := range events {
		if _, known := t.told[e.ID]; !known {
			t.told[e.ID] = e.HLC
			out = append(out, e)
		}
	}
	return out
}

// Forget drops what was told of events before the place, which is not asked for any more.
func (t *Trail) Forget(before themis.HLC) {
	for id, h := range t.told {
		if h < before {
			delete(t.told, id)
		}
	}
}

// TrailFrom is the place to ask from, so that what is written late reaches a follower who knows all up to that HLC.
func TrailFrom(known themis.HLC) themis.HLC {
	if at := known.Time().Add(-TrailLate); at.UnixMilli() > 0 {
		return themis.HLCAt(at)
	}
	return 0
}
