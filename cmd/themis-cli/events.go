package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

func clusterEvents(a *app) *cobra.Command {
	var since time.Duration
	var limit int
	var follow bool
	cmd := &cobra.Command{
		Use: "events", Annotations: streaming, Short: "What was decided, done, refused and left undone, and why",
		Long: "The audit trail, oldest first. --follow goes on with what happens from then on, until it is interrupted, or for the time of --timeout.",
		Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usage.Wrong("--limit %d: want 0 or more", limit)
			}
			if since < 0 {
				return usage.Wrong("--since %s: want a time back from now, 0 or more", since)
			}
			if follow && a.flags.output != "table" && a.flags.output != "wide" && a.flags.output != "ndjson" {
				return usage.Wrong("--follow with --output %s: a stream is table, wide or ndjson", a.flags.output)
			}
			var from themis.HLC
			if since > 0 {
				from = themis.HLCAt(time.Now().Add(-since))
			}
			own := askTime
			if follow {
				own = 0
			}
			return a.withClient(cmd.Context(), own, func(ctx context.Context, c *client.Client) error {
				list, err := c.Events(ctx, from, 0, limit)
				if err != nil {
					return err
				}
				if !follow {
					return a.printEvents(list)
				}
				for _, e := range list {
					from = max(from, e.HLC)
				}
				if err := a.eventLines(list); err != nil {
					return err
				}
				return a.followEvents(ctx, c, from)
			})
		},
	}
	cmd.Flags().DurationVar(&since, "since", 0, "only those of the last `TIME`, such as 10m; 0: all that are kept")
	cmd.Flags().IntVar(&limit, "limit", 0, "the newest `N` at most; 0: all")
	cmd.Flags().BoolVar(&follow, "follow", false, "go on")
	return cmd
}

func (a *app) printEvents(list []cluster.Event) error {
	if a.flags.output == "ndjson" {
		return a.eventLines(list)
	}
	all := make([]wholeEvent, 0, len(list))
	for _, e := range list {
		all = append(all, whole(e))
	}
	return a.print(all, func(w io.Writer, wide bool) {
		head := "TIME ACTION SUBJECT OUTCOME ACTOR REASON"
		if wide {
			head = "TIME ACTION SUBJECT OUTCOME ACTOR EPOCH MS RULE REASON"
		}
		var rows [][]string
		for _, e := range list {
			row := []string{e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Action, dash(e.Subject), e.Outcome, actor(e)}
			if wide {
				row = append(row, fmt.Sprint(e.Epoch), fmt.Sprintf("%.0f", e.DurationMs), dash(e.Rule))
			}
			rows = append(rows, append(row, dash(e.Reason)))
		}
		columns(w, head, rows)
	})
}

// wholeEvent is an event with every field, also those that the trail leaves out since there is nothing in them: scripts need not ask which are there.
type wholeEvent struct {
	Format         int             `json:"format"`
	ID             string          `json:"id"`
	HLC            themis.HLC      `json:"hlc"`
	Time           time.Time       `json:"time"`
	Actor          wholeActor      `json:"actor"`
	Action         string          `json:"action"`
	Subject        string          `json:"subject"`
	Outcome        string          `json:"outcome"`
	Rule           string          `json:"rule"`
	Reason         string          `json:"reason"`
	Before         json.RawMessage `json:"before"`
	After          json.RawMessage `json:"after"`
	Epoch          *themis.Epoch   `json:"epoch"`
	ConfigVersion  uint64          `json:"config_version"`
	RoutingVersion *uint64         `json:"routing_version"`
	RequestID      string          `json:"request_id"`
	DurationMs     *float64        `json:"duration_ms"`
	Phases         []cluster.Phase `json:"phases"`
}

type wholeActor struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	Cert string `json:"cert"`
}

func whole(e cluster.Event) wholeEvent {
	return wholeEvent{
		Format: e.Format, ID: e.ID, HLC: e.HLC, Time: e.Time, Actor: wholeActor(e.Actor), Action: e.Action, Subject: e.Subject, Outcome: e.Outcome,
		Rule: e.Rule, Reason: e.Reason, Before: e.Before, After: e.After, Epoch: given(e.Epoch), ConfigVersion: e.ConfigVersion,
		RoutingVersion: given(e.RoutingVersion), RequestID: e.RequestID, DurationMs: given(e.DurationMs), Phases: append([]cluster.Phase{}, e.Phases...),
	}
}

// given is null for a number that there is not.
func given[T comparable](v T) *T {
	var none T
	if v == none {
		return nil
	}
	return &v
}

func actor(e cluster.Event) string { return strings.TrimSuffix(e.Actor.Kind+":"+e.Actor.ID, ":") }

// eventLines writes each event as one line.
func (a *app) eventLines(list []cluster.Event) error {
	for _, e := range list {
		var err error
		if a.flags.output == "ndjson" {
			err = a.line(whole(e))
		} else {
			err = a.write(fmt.Appendf(nil, "%s  %s %s %s by %s: %s\n", e.Time.Local().Format("15:04:05.000"), e.Action, e.Subject, e.Outcome, actor(e), dash(e.Reason)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) followEvents(ctx context.Context, c *client.Client, from themis.HLC) error {
	if from == 0 {
		from = themis.HLCAt(time.Now())
	}
	for f, err := range c.Watch(ctx, from) {
		if err != nil {
			a.say("# %v; trying again", err)
			continue
		}
		slices.SortFunc(f.Events, func(x, y cluster.Event) int { return strings.Compare(x.ID, y.ID) })
		if err := a.eventLines(f.Events); err != nil {
			return err
		}
	}
	return ended(ctx)
}

// ended is nil where a stream was followed as long as --timeout asked.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil
	}
	return ctx.Err()
}
