package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/tui"
)

func clusterCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "cluster", Short: "Make, watch and configure a cluster"},
		clusterInit(a), clusterHealth(a), clusterStatus(a), clusterEvents(a), clusterApplyConfig(a))
}

const askTime = 10 * time.Second

func clusterHealth(a *app) *cobra.Command {
	var failOn, exitStyle, wait string
	var when moment
	var watch bool
	cmd := &cobra.Command{
		Use: "health", Annotations: streaming, Short: "Is the cluster well? What to do if it is not?",
		Long: `Show the state of the cluster, of every shard and its copies, and what to do about what is wrong.

Exit code: 0 below the bar of --fail-on, 1 at it or past it, 3 when a part could not be asked.
With --exit-style nagios: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
With --at TIME it shows what a node recorded of that time: each records a state a second, about a day of them. The exit code is that of then.
With --wait STATUS it waits until the cluster is that well or better, --timeout or a minute at most; then the exit code is 0, else 9.`,
		Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bar, err := health.ParseFailOn(failOn)
			if err != nil {
				return err
			}
			if exitStyle != "" && exitStyle != "nagios" {
				return usage.Wrong("--exit-style %q: want nagios, or nothing", exitStyle)
			}
			judge := func(r health.Report) {
				if a.answer(r.Exit(bar)); exitStyle != "" {
					a.answer(r.Nagios())
				}
			}
			if wait != "" && (watch || exitStyle != "") {
				return usage.Wrong("--wait goes with neither --watch nor --exit-style")
			}
			if when.past() && (watch || wait != "") {
				return usage.Wrong("--at and --recording tell the past: they go with neither --watch nor --wait")
			}
			if wait != "" {
				return a.healthWhen(cmd.Context(), wait)
			}
			if watch {
				return a.watchHealth(cmd.Context(), judge)
			}
			f, err := a.state(cmd.Context(), when)
			if err == nil {
				judge(f.Report)
				err = a.print(f.ReportJSON, a.healthTable(f.Report))
			} else if !when.past() {
				err = a.unjudged(err)
			}
			if err != nil && exitStyle != "" { // a monitor takes anything else for a verdict
				a.complain(cmd, err)
				a.answer(3)
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringVar(&failOn, "fail-on", "degraded", "the state from which on the exit code is 1: degraded or critical")
	cmd.Flags().StringVar(&exitStyle, "exit-style", "", "nagios: the exit codes of monitoring plugins")
	cmd.Flags().StringVar(&wait, "wait", "", "wait until the `STATUS` is HEALTHY, or at least DEGRADED")
	when.flags(cmd.Flags())
	cmd.Flags().BoolVar(&watch, "watch", false, "go on showing it, until it is interrupted, or for the time of --timeout")
	return cmd
}

// healthWhen answers as soon as the cluster is well enough.
func (a *app) healthWhen(ctx context.Context, wait string) error {
	enough, err := parseWait(wait)
	if err != nil {
		return err
	}
	f, err := a.waitHealth(ctx, enough)
	if err != nil {
		return err
	}
	return a.print(f.ReportJSON, a.healthTable(f.Report))
}

// healthTable draws the box and what to do below it.
func (a *app) healthTable(r health.Report) func(io.Writer, bool) {
	return func(w io.Writer, wide bool) {
		s, width := a.style()
		s.All = wide
		_, _ = io.WriteString(w, tui.HealthBox(r, width, s))
		_, _ = io.WriteString(w, tui.Findings(r, width, s))
	}
}

const clearScreen = "\x1b[H\x1b[2J"

// watchHealth draws every frame over the last one; where there is no terminal, one below the other when something changed.
func (a *app) watchHealth(ctx context.Context, judge func(health.Report)) error {
	ctx, cancel := a.limited(ctx, 0)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // it was only asked
	last := ""
	for f, err := range c.Watch(ctx, 0) {
		if err != nil {
			a.say("# %v; trying again", err)
			continue
		}
		judge(f.Report)
		if a.flags.output == "json" || a.flags.output == "ndjson" {
			if err := a.line(f.ReportJSON); err != nil {
				return err
			}
			continue
		}
		var b strings.Builder
		a.healthTable(f.Report)(&b, a.flags.output == "wide")
		switch {
		case terminal(a.out):
			_, err = fmt.Fprintf(a.out, "%s%s\n%s  Ctrl-C ends\n", clearScreen, b.String(), f.Report.Time.Format(time.TimeOnly))
		case b.String() != last:
			_, err = fmt.Fprintf(a.out, "# %s\n%s", f.Report.Time.Format(time.RFC3339), b.String())
		}
		if err != nil {
			return a.unwritten(err)
		}
		last = b.String()
	}
	return ended(ctx)
}

func clusterStatus(a *app) *cobra.Command {
	var when moment
	cmd := &cobra.Command{
		Use: "status", Short: "The nodes and shards in short",
		Long: "The nodes and shards in short. -o json is what GET /cluster/status answers.",
		Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := a.state(cmd.Context(), when)
			switch {
			case err != nil && when.past():
				return err
			case err != nil:
				return a.unjudged(err)
			}
			return a.print(f.ReportJSON, func(w io.Writer, wide bool) {
				r := f.Report
				pairs(w, "cluster", r.Cluster, "status", string(r.Status), "time", r.Time.Format(time.RFC3339), "control", controlText(r),
					"routing_version", number(r.RoutingVersion), "config_version", fmt.Sprint(r.ConfigVersion))
				_, _ = fmt.Fprintln(w)
				nodeTable(w, r, wide)
				_, _ = fmt.Fprintln(w)
				shardTable(w, r, wide)
			})
		},
	}
	when.flags(cmd.Flags())
	return cmd
}

func controlText(r health.Report) string {
	var members []string
	for _, m := range r.Control.Members {
		text := string(m.Node) + " " + m.State
		if m.Node == r.Control.Leader {
			text += " (leader)"
		}
		members = append(members, text)
	}
	return r.Control.Mode + ": " + dash(strings.Join(members, ", "))
}
