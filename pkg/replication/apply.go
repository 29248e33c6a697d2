package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

const (
	applyBytes = 4 << 20 // applied in one call at most, a larger entry apart
	// Between two calls a replica rests, unless somebody has waited for an entry lately: many entries at once cost far less each.
	applyRest = 20 * time.Millisecond // of a follower
	leadRest  = 5 * time.Millisecond  // of a primary
	calm      = 50 * time.Millisecond // since somebody has waited
)

// safe tells that everything up to seq is committed.
func (r *Replica) safe(seq themis.Seq) {
	if r.commits(seq) {
		r.applied.wake()
	}
}

// commits is safe without waking those who apply. It says whether that was news.
func (r *Replica) commits(seq themis.Seq) bool {
	for {
		old := r.commit.Load()
		if uint64(seq) <= old {
			return false
		}
		if r.commit.CompareAndSwap(old, uint64(seq)) {
			break
		}
	}
	r.log.SetCommit(seq)
	return true
}

// unsafe takes back what is known to be committed: under ASYNC a cut may fall below it.
func (r *Replica) unsafe(above themis.Seq) {
	for {
		old := r.commit.Load()
		if old <= uint64(above) || r.commit.CompareAndSwap(old, uint64(above)) {
			return
		}
	}
}

// applyLoop brings committed entries from the log into the store, and nothing above the commit seq (promise 13).
func (r *Replica) applyLoop(ctx context.Context) error {
	var scan *wal.Scanner
	defer func() {
		if scan != nil {
			_ = scan.Close()
		}
	}()
	for {
		next := r.applied.next()
		s := r.openStore()
		have := s.Applied().Seq
		upTo := min(themis.Seq(r.commit.Load()), r.log.Durable())
		if !guard.On(guard.CommitOnly) {
			upTo = r.log.Durable()
		}
		if have >= upTo {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-next:
			}
			continue
		}
		entries := r.recent.take(r.log, have+1, upTo, applyBytes)
		if entries == nil {
			var err error
			entries, err = r.readBack(&scan, have, upTo)
			if errors.Is(err, wal.ErrCut) || r.exchanged(s) {
				continue
			}
			if err != nil {
				return fmt.Errorf("apply %s from seq %d: %w", r.o.Shard, have+1, err)
			}
		}
		_, err := s.Apply(entries)
		if err != nil {
			if errors.Is(err, store.ErrClosed) && r.exchanged(s) {
				continue
			}
			return fmt.Errorf("apply %s: %w", r.o.Shard, err)
		}
		r.inStore(entries[len(entries)-1].Seq)
		r.applied.wake()
		if n := len(entries); n > 0 && entries[n-1].Seq == upTo {
			r.rest(ctx)
		}
	}
}

// rest lets entries gather, unless somebody waits for them.
func (r *Replica) rest(ctx context.Context) {
	d := applyRest
	if r.leading.Load() != nil {
		d = leadRest
	}
	if time.Since(time.Unix(0, r.hurried.Load())) < calm {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.hurry:
	case <-ctx.Done():
	}
}

// hurryUp says that somebody waits for an entry.
func (r *Replica) hurryUp() {
	r.hurried.Store(time.Now().UnixNano())
	select {
	case r.hurry <- struct{}{}:
	default:
	}
}

// readBack reads entries behind have from the log. scan is where the last call left off, or nil.
func (r *Replica) readBack(scan **wal.Scanner, have, upTo themis.Seq) ([]themis.Entry, error) {
	if *scan != nil && (*scan).Pos().Seq != have {
		_ = (*scan).Close()
		*scan = nil
	}
	if *scan == nil {
		fresh, err := r.log.Scan(have + 1)
		if err != nil {
			return nil, err
		}
		*scan = fresh
	}
	entries, err := readEntries(*scan, upTo)
	if err != nil {
		_ = (*scan).Close()
		*scan = nil
	}
	return entries, err
}

// exchanged says whether an install has put another store in the place of s.
func (r *Replica) exchanged(s *store.Store) bool { return r.openStore() != s }

func readEntries(scan *wal.Scanner, upTo themis.Seq) ([]themis.Entry, error) {
	var out []themis.Entry
	for size := 0; size < applyBytes && scan.Pos().Seq < upTo; {
		e, err := scan.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		e.Payload = append([]byte(nil), e.Payload...) // valid only until the next call
		size += len(e.Payload)
		out = append(out, e)
	}
	return out, nil
}
