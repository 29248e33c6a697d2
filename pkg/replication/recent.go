package replication

import (
	"slices"
	"sync"

	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// recentBytes bounds what is kept in memory for applying; what is older is read from the log.
const recentBytes = 8 << 20

// recent holds the newest frames of the log on their way to the store, so that they need not be read back. It is never asked
// whether they count: an entry is taken from it only where the log's lineage says that it holds the very same one.
type recent struct {
	mu   sync.Mutex
	runs []run
	held int
}

// run is whole frames, one behind the other, that nobody changes any more.
type run struct {
	frames      []byte
	first, last themis.Seq
}

func (q *recent) offer(r run) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.runs); n > 0 && q.runs[n-1].last+1 != r.first {
		q.runs, q.held = nil, 0
	}
	q.runs, q.held = append(q.runs, r), q.held+len(r.frames)
	for q.held > recentBytes && len(q.runs) > 1 {
		q.drop()
	}
}

func (q *recent) drop() {
	q.held -= len(q.runs[0].frames)
	q.runs[0].frames = nil
	q.runs = q.runs[1:]
}

// take returns the entries from next to upTo that are held, at most about max bytes of them; none where next is not held. They
// may be taken again.
func (q *recent) take(l *wal.Log, next, upTo themis.Seq, most int) (out []themis.Entry) {
	q.mu.Lock()
	for len(q.runs) > 0 && q.runs[0].last < next {
		q.drop()
	}
	n := 0
	for n < len(q.runs) && q.runs[n].first <= upTo {
		n++
	}
	runs := slices.Clone(q.runs[:n])
	q.mu.Unlock()
	if len(runs) == 0 || runs[0].first > next {
		return nil
	}
	size := 0
	for _, r := range runs {
		for b := r.frames; len(b) > 0 && size < most; {
			e, n, err := wal.DecodeFrame(b)
			if err != nil || e.Seq > upTo || l.EpochAt(e.Seq) != e.Epoch {
				return out
			}
			b, size = b[n:], size+n
			if e.Seq >= next {
				out = append(out, e)
			}
		}
	}
	return out
}
