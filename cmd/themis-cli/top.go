package main

import (
	"context"
	"errors"
	"iter"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/tui"
)

const (
	snapshotWithin = 10 * time.Second // where --timeout says nothing
	reconnectPause = time.Second
)

// topCommand is the live screens, or one plain picture of them where there is no terminal.
func topCommand(a *app) *cobra.Command {
	var plain bool
	var failOn string
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch the cluster live: findings, shards, copies, nodes, lag, events",
		Long: `top shows the cluster as it is and follows it, until q is pressed; ? explains the keys and signs. It goes on with another node
when the one it listens to is lost, and says how old what it shows is; where none answers at first, it waits for one.

With --plain, with -o json or yaml, or where stdin or stdout is no terminal, it prints one picture and exits like
"cluster health": 0 fine, 1 the status is at --fail-on or worse, 3 something could not be asked.`,
		Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bar, err := health.ParseFailOn(failOn)
			if err != nil {
				return err
			}
			if plain || a.flags.output != "table" && a.flags.output != "wide" || !terminal(a.out) || !terminal(a.in) {
				return a.topOnce(cmd.Context(), bar)
			}
			return a.topLive(cmd.Context())
		},
	}
	c.Flags().BoolVar(&plain, "plain", false, "print one picture without colour, and exit")
	c.Flags().StringVar(&failOn, "fail-on", string(health.FailOnDegraded), "with --plain: from which `STATUS` on the exit code is 1: degraded, critical")
	return c
}

// topLive runs until the user leaves; --timeout is about single answers of the cluster, not about that.
func (a *app) topLive(ctx context.Context) (err error) {
	o := tui.Options{In: a.in, Out: a.out, ASCII: !unicodeLocale()}
	if a.flags.noColor {
		o.Env = append(os.Environ(), "NO_COLOR=1")
	}
	c, err := a.connect(ctx)
	switch {
	case err == nil:
		defer func() { err = errors.Join(err, c.Close()) }()
		return tui.Run(ctx, c, o)
	case !passing(err): // a wrong certificate, say
		return err
	}
	return tui.Run(ctx, latecomer{a}, o)
}

// latecomer is a source of frames where no node answers yet.
type latecomer struct{ a *app }

// Watch tries until a node answers, and then is that client's. Each failure is told.
func (l latecomer) Watch(ctx context.Context, from themis.HLC) iter.Seq2[health.Frame, error] {
	return func(yield func(health.Frame, error) bool) {
		for ctx.Err() == nil {
			c, err := l.a.connect(ctx)
			if err == nil {
				for f, err := range c.Watch(ctx, from) {
					if !yield(f, err) {
						break
					}
				}
				_ = c.Close() //nolint:errcheck // it was only asked
				return
			}
			if ctx.Err() != nil || !yield(health.Frame{}, err) {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(reconnectPause):
			}
		}
	}
}

// At implements health.Source.
func (l latecomer) At(ctx context.Context, t themis.HLC) (f health.Frame, err error) {
	c, err := l.a.connect(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return c.At(ctx, t)
}

func (a *app) topOnce(ctx context.Context, bar health.FailOn) error {
	return a.withClient(ctx, snapshotWithin, func(ctx context.Context, c *client.Client) error {
		frame, err := c.Frame(ctx)
		if err != nil {
			return err
		}
		a.answer(frame.Report.Exit(bar))
		if a.flags.output != "table" && a.flags.output != "wide" {
			return a.print(frame.Report, nil)
		}
		frame.Events = a.newestEvents(ctx, c)
		_, width := a.style()
		if columns, err := strconv.Atoi(os.Getenv("COLUMNS")); width == 0 && err == nil {
			width = columns
		}
		return a.write([]byte(tui.Plain(tui.Still(frame), width, !unicodeLocale())))
	})
}

const (
	eventsWithin = 2 * time.Second // a control plane without quorum answers nothing about the past
	eventsAsked  = 20
)

// newestEvents are the last lines of the audit trail; the picture goes on without them where they can't be read.
func (a *app) newestEvents(ctx context.Context, c *client.Client) []cluster.Event {
	ctx, cancel := context.WithTimeout(ctx, eventsWithin)
	defer cancel()
	list, err := c.Events(ctx, 0, 0, eventsAsked)
	if err != nil {
		a.say("the newest events are not shown: %v", err)
	}
	return list
}
