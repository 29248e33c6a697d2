package main

import (
	"context"
	"time"

	"github.com/spf13/pflag"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/recording"
	"github.com/themisdb/themis/pkg/themis"
)

// moment is which state of the cluster is meant: now, or what its nodes recorded of an earlier time.
type moment struct{ at, recording string }

func (m *moment) flags(f *pflag.FlagSet) {
	f.StringVar(&m.at, "at", "", "the state of that `TIME`, as a node recorded it: 2026-03-01T02:10:00Z, 02:10 or 02:10:30 of the last 24 hours here, or how long ago, such as 15m")
	f.StringVar(&m.recording, "recording", "", "read it from the `DIR` recording of a node's data directory, also while no node runs; without --at the last state in it")
}

func (m moment) past() bool { return m.at != "" || m.recording != "" }

// parseAt reads --at.
func parseAt(s string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, form := range []string{"15:04", time.TimeOnly} {
		if clock, err := time.Parse(form, s); err == nil {
			t := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
			if t.After(now) {
				t = t.AddDate(0, 0, -1)
			}
			return t, nil
		}
	}
	t, err := time.Parse(time.RFC3339, s)
	switch {
	case err != nil:
		return t, usage.Wrong("--at %q: want a time such as 2026-03-01T02:10:00Z or 02:10, or how long ago, such as 15m", s)
	case t.After(now):
		return t, usage.Wrong("--at %s: it is not yet that time", s)
	}
	return t, nil
}

// state is the cluster's state of that moment. Of a past one stderr says how old it is.
func (a *app) state(ctx context.Context, m moment) (f health.Frame, err error) {
	if !m.past() {
		err = a.withClient(ctx, askTime, func(ctx context.Context, c *client.Client) error {
			f, err = c.Frame(ctx)
			return err
		})
		return f, err
	}
	now := time.Now()
	t := now
	if m.at != "" {
		if t, err = parseAt(m.at, now); err != nil {
			return f, err
		}
	}
	at := themis.HLCAt(t.Add(time.Millisecond)) - 1 // the whole millisecond
	if m.recording == "" {
		err = a.withClient(ctx, askTime, func(ctx context.Context, c *client.Client) error {
			f, err = c.At(ctx, at)
			return err
		})
	} else {
		var r *recording.Recording
		if r, err = recording.Open(m.recording); err == nil {
			f, err = r.At(ctx, at)
		}
	}
	if err == nil {
		seen := f.HLC.Time()
		a.say("# as it was at %s, %s ago", seen.In(now.Location()).Format(time.RFC3339), now.Sub(seen).Round(time.Second))
		if m.at != "" && t.Sub(seen) > longBefore {
			a.say("# nothing is recorded between then and %s", t.In(now.Location()).Format(time.RFC3339))
		}
	}
	return f, err
}

// longBefore is how long before the asked moment a frame may be without a word: nodes record one a second.
const longBefore = 5 * time.Second
