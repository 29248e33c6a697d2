package node

import (
	"context"
	"encoding/json"
	"iter"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/recording"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// frame is the state of the cluster now, as this node sees it.
func (n *Node) frame(ctx context.Context) (*nodev1.StateFrame, error) {
	r, states, err := n.Report(ctx)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	out := &nodev1.StateFrame{Hlc: themis.HLCAt(time.Now()).String(), Revision: uint64(r.Revision), ReportJson: b, ObservedAtMs: map[string]uint64{}} //nolint:gosec // positive
	for id, o := range states {
		if !o.At.IsZero() {
			out.ObservedAtMs[string(id)] = uint64(o.At.UnixMilli()) //nolint:gosec // positive
		}
	}
	return out, nil
}

// frames yields the state at least once a second, and at once when the map changes, with the events behind from, until ctx ends; and an
// error while there is none.
func (n *Node) frames(ctx context.Context, from themis.HLC) iter.Seq2[*nodev1.StateFrame, error] {
	return func(yield func(*nodev1.StateFrame, error) bool) {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		events := trailFollower{behind: from, floor: cluster.TrailFrom(min(from, themis.HLCAt(time.Now())))}
		for {
			changed := n.changed.next()
			frame, err := n.frame(ctx)
			if err == nil {
				for _, e := range events.next(ctx, n.m.Load()) {
					frame.EventsJson = append(frame.EventsJson, asJSON(e))
				}
			}
			if !yield(frame, err) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-changed:
				select { // changes come in bunches
				case <-ctx.Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}
	}
}

// record keeps the frames in files, so that the cluster can be seen as it was. A node lives on without; why it does is logged once.
func (n *Node) record(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-n.member:
	}
	var ring *recording.Ring
	defer func() {
		if ring != nil {
			_ = ring.Close()
		}
	}()
	told := ""
	for frame, err := range n.frames(ctx, themis.HLCAt(n.began)) {
		if err != nil || n.disk.tells() != nil {
			continue // without a map there is nothing to see, and a full disk is left what it has
		}
		if ring == nil {
			ring, err = recording.OpenRing(recording.Dir(n.cfg.Node.DataDir), recording.Options{})
		}
		if err == nil {
			err = ring.Append(frame)
		}
		switch {
		case err == nil:
			told = ""
		case err.Error() != told:
			told = err.Error()
			n.log.Warn("the state of the cluster is not recorded", "err", err)
		}
	}
	return ctx.Err()
}

// trailFollower follows the audit trail: the events behind a place, and those before it that are written from now on.
type trailFollower struct {
	behind, floor themis.HLC
	begun         bool
	failed        themis.HLC // when the trail could last not be asked: others could not write to it either, and do so from now on
	trail         cluster.Trail
	waiting       []cluster.Event // news that the frame before had no room for; while there are any, the trail is not asked
}

const (
	eventsMost = 200  // in a frame; of those from before the watch began, the newest
	trailMost  = 1000 // of cluster.TrailLate, the newest: of more, only Events tells all
)

// next are the events that are news. The trail is in the control plane; without a quorum there are none, and they come later.
func (f *trailFollower) next(ctx context.Context, m *control.Map) []cluster.Event {
	if len(f.waiting) == 0 && m != nil {
		f.waiting = f.ask(ctx, m)
	}
	n := min(len(f.waiting), eventsMost)
	out := f.waiting[:n]
	f.waiting = f.waiting[n:]
	return out
}

func (f *trailFollower) ask(ctx context.Context, m *control.Map) []cluster.Event {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	asked, most := themis.HLCAt(time.Now()), trailMost
	if !f.begun {
		most = eventsMost
	}
	events, err := m.Events(ctx, f.floor, 0, most)
	if err != nil {
		f.failed = asked
		return nil
	}
	if !f.begun {
		f.begun = true
		old := slices.IndexFunc(events, func(e cluster.Event) bool { return e.HLC > f.behind })
		if old < 0 {
			old = len(events)
		}
		f.trail.News(events[:old])
	}
	out := f.trail.News(events)
	if f.failed < cluster.TrailFrom(asked) {
		f.floor = cluster.TrailFrom(asked)
		f.trail.Forget(f.floor)
	}
	return out
}
