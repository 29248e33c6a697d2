package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// The limits of the audit trail.
const (
	EventsMax    = 50_000
	EventsMaxAge = 30 * 24 * time.Hour
	evidenceMax  = 32 << 10 // of an event's before and after, each
)

// AppendEvent adds one line to the audit trail and returns it with its id, <hlc>-<node>-<n>. The event's HLC must be set.
// Evidence of more than 32 KiB is replaced by its size, never the event by nothing.
func (m *Map) AppendEvent(ctx context.Context, node themis.NodeID, e cluster.Event) (cluster.Event, error) {
	if e.HLC == 0 {
		return e, themis.Errorf(themis.InvalidArgument, "event %s %s: without a timestamp", e.Action, e.Subject)
	}
	e.Format = cluster.Format
	e.Before, e.After = short(e.Before), short(e.After)
	for range swapTries {
		e.ID = fmt.Sprintf("%s-%s-%d", e.HLC, node, m.events.Add(1))
		switch ok, err := m.putEvent(ctx, e); {
		case err != nil:
			return e, fmt.Errorf("append event %s: %w", e.ID, err)
		case ok:
			return e, nil
		} // else an earlier run of this process, whose clock was ahead, has used the id
	}
	return e, busy("append event")
}

func (m *Map) putEvent(ctx context.Context, e cluster.Event) (bool, error) {
	b, err := cluster.Encode(e)
	if err != nil {
		return false, err
	}
	key := m.keys.event(e.ID)
	t := Txn{If: []Compare{{key, 0}}, Put: []Put{{Key: key, Value: b}}}
	for range resolveTries {
		var ok bool
		if ok, _, err = m.kv.Txn(ctx, t); err == nil && !ok {
			now, readErr := m.kv.Get(ctx, key) // an earlier try may have been done
			return bytes.Equal(now.Value, b), readErr
		}
		if !errors.Is(err, ErrUnknownOutcome) {
			return ok, err
		}
		pause(ctx, resolvePause)
	}
	return false, err
}

func short(evidence json.RawMessage) json.RawMessage {
	if len(evidence) <= evidenceMax {
		return evidence
	}
	return json.RawMessage(fmt.Sprintf(`{"omitted_bytes":%d}`, len(evidence)))
}

// Events are the lines of the trail with from ≤ HLC < to, oldest first; to 0 means until now. Of more than limit, the newest
// ones; limit 0 means all.
func (m *Map) Events(ctx context.Context, from, to themis.HLC, limit int) ([]cluster.Event, error) {
	r := Prefix(m.keys.of(underEvents))
	r.From = m.keys.event(from.String())
	if to != 0 {
		r.To = m.keys.event(to.String())
	}
	r.Limit, r.Descending = limit, true
	records, _, err := m.kv.List(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	slices.Reverse(records)
	out := make([]cluster.Event, 0, len(records))
	for _, rec := range records {
		e, err := cluster.Decode[cluster.Event](rec.Value)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", rec.Key, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// TrimEvents removes what is older than 30 days at now, and all but the newest 50,000, while the controller's record stands.
// It returns how many went.
func (m *Map) TrimEvents(ctx context.Context, as cluster.Controller, now time.Time) (int, error) {
	return m.trimEvents(ctx, as, now, EventsMax)
}

func (m *Map) trimEvents(ctx context.Context, as cluster.Controller, now time.Time, keep int) (int, error) {
	r := Prefix(m.keys.of(underEvents))
	r.KeysOnly = true
	records, _, err := m.kv.List(ctx, r)
	if err != nil {
		return 0, fmt.Errorf("trim events: %w", err)
	}
	oldest := m.keys.event(themis.HLCAt(now.Add(-EventsMaxAge)).String())
	cut, _ := slices.BinarySearchFunc(records, oldest, func(r Record, k string) int { return strings.Compare(r.Key, k) })
	cut = max(cut, len(records)-keep)
	done := 0
	for chunk := range slices.Chunk(records[:cut], MaxTxnOps) {
		t := Txn{If: []Compare{m.reign(as)}}
		for _, r := range chunk {
			t.Delete = append(t.Delete, r.Key)
		}
		ok, _, err := m.kv.Txn(ctx, t)
		if err == nil && !ok {
			err = deposed(as)
		}
		if err != nil {
			return done, fmt.Errorf("trim events: %w", err)
		}
		done += len(chunk)
	}
	return done, nil
}
