package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

func replicationCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "replication", Short: "When writes are acknowledged"}, replicationSetMode(a))
}

// setMode is the JSON of `replication set-mode`.
type setMode struct {
	DryRun bool       `json:"dry_run"` // nothing was changed; the rest is what would be
	Shards []shardAsk `json:"shards"`
}

type shardAsk struct {
	cluster.Asked
	InForce bool `json:"in_force"` // have is what is wanted
}

type modeFlags struct {
	shards, syncShards []string
	k                  int
	dryRun, noWait     bool
}

func replicationSetMode(a *app) *cobra.Command {
	var f modeFlags
	cmd := &cobra.Command{
		Use: "set-mode sync|semi_sync|async|hybrid", Short: "Change when writes are acknowledged, while the cluster runs",
		Long: `Change when writes are acknowledged, while the cluster runs:

  sync       when every in-sync copy has the write on disk, and min_sync_replicas followers are in sync at least
  semi_sync  when the primary and min_sync_replicas followers have it on disk
  async      when the primary has it on disk: a failover may lose what no follower had yet
  hybrid     sync for the shards of --sync-shards, async for the others

Each shard's primary changes over once everything that was acknowledged is held as the new mode demands; until then the old one holds,
and writes go on. The command waits until the new one is in force everywhere. Nothing is changed where one shard can't have the mode.`,
		Example: "  themis-cli replication set-mode semi_sync --dry-run\n  themis-cli replication set-mode async --shard shard-3,shard-4",
		Args:    usage.Exactly(1), ValidArgs: []string{"sync", "semi_sync", "async", "hybrid"},
		RunE: func(cmd *cobra.Command, args []string) error {
			ask, err := f.request(args[0], cmd.Flags().Changed("min-sync-replicas"))
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), waitTime, func(ctx context.Context, c *client.Client) error { return a.setMode(ctx, c, ask, f) })
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&f.shards, "shard", nil, "these shards alone")
	fs.StringSliceVar(&f.syncShards, "sync-shards", nil, "under hybrid: the shards that are sync")
	fs.IntVar(&f.k, "min-sync-replicas", 0, "followers that must have a write; left out: as it is")
	fs.BoolVar(&f.dryRun, "dry-run", false, "say what would be changed, or why it is refused, and change nothing")
	fs.BoolVar(&f.noWait, "no-wait", false, "don't wait until the new mode is in force")
	return cmd
}

// request refuses what can't be without asking anybody.
func (f modeFlags) request(mode string, withK bool) (map[string]any, error) {
	m, err := themis.ParseMode(mode)
	if err != nil {
		return nil, err
	}
	ask := map[string]any{"mode": m}
	for flag, list := range map[string][]string{"shards": f.shards, "sync_shards": f.syncShards} {
		var ids []themis.ShardID
		for _, s := range list {
			id, err := themis.ParseShardID(s)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		ask[flag] = ids
	}
	switch {
	case m == themis.Hybrid && len(f.syncShards) == 0:
		return nil, usage.Wrong("hybrid: --sync-shards must name the shards that are sync; the others become async").
			Do("themis-cli replication set-mode hybrid --sync-shards shard-1,shard-2")
	case m == themis.Hybrid && len(f.shards) > 0:
		return nil, usage.Wrong("--shard: hybrid is for all shards, which --sync-shards parts in two")
	case m != themis.Hybrid && len(f.syncShards) > 0:
		return nil, usage.Wrong("--sync-shards: only with hybrid; the mode is %s", m)
	case m == themis.Async && withK && f.k > 0:
		return nil, usage.Wrong("--min-sync-replicas %d: under async no follower is waited for", f.k)
	case withK && f.k < 0:
		return nil, usage.Wrong("--min-sync-replicas %d: want 0 or more", f.k)
	}
	if withK {
		ask["min_sync_replicas"] = f.k
	}
	return ask, nil
}

func (a *app) setMode(ctx context.Context, c *client.Client, ask map[string]any, f modeFlags) error {
	var out setMode
	if err := c.Act(ctx, "replication.set-mode", ask, f.dryRun, &out); err != nil {
		return err
	}
	out.judge(nil)
	var late error
	if !f.dryRun && !f.noWait {
		late = a.waitPolicies(ctx, c, &out)
	}
	return errors.Join(a.print(out, func(w io.Writer, _ bool) { setModeText(w, out) }), late)
}

// judge says of each shard whether what is wanted is in force, by the report where there is one.
func (s *setMode) judge(r *health.Report) (waiting []string) {
	for i := range s.Shards {
		x := &s.Shards[i]
		in := ""
		if r != nil {
			now, ok := r.Shard(x.Shard)
			if !ok {
				continue
			}
			x.Have = cluster.Policy{Mode: now.Mode, K: now.K, RF: now.RF}
			in = fmt.Sprintf("; in sync: %v", now.ISR)
		}
		if x.InForce = x.Have.Mode == x.Want.Mode && x.Have.K == x.Want.K; !x.InForce {
			waiting = append(waiting, fmt.Sprintf("%s is %s, %s is wanted%s", x.Shard, modeWords(x.Have), modeWords(x.Want), in))
		}
	}
	return waiting
}

// waitPolicies waits until what is wanted is in force, and says on stderr what it waits for whenever that changes.
func (a *app) waitPolicies(ctx context.Context, c *client.Client, out *setMode) error {
	told := ""
	for {
		frame, err := c.Frame(ctx)
		if err == nil {
			waiting := strings.Join(out.judge(&frame.Report), "; ")
			if waiting == "" {
				return nil
			}
			if waiting != told {
				a.say("# %s", waiting)
			}
			told = waiting
		} else if ctx.Err() == nil && !passing(err) {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return themis.Errorf(themis.Deadline, "the change is asked for, and not in force everywhere yet: %s", told).Do("themis-cli cluster health")
		case <-time.After(waitPause):
		}
	}
}

func modeWords(p cluster.Policy) string {
	if p.Mode == themis.Async {
		return string(p.Mode)
	}
	return fmt.Sprintf("%s with %s", p.Mode, counted(p.K, "follower"))
}

func setModeText(w io.Writer, out setMode) {
	var rows [][]string
	changed := 0
	for _, s := range out.Shards {
		state := "in force"
		switch {
		case out.DryRun && s.Changed:
			state = "would be changed"
		case !s.InForce:
			state = "waits"
		case !s.Changed:
			state = "in force already"
		}
		if s.Changed {
			changed++
		}
		rows = append(rows, []string{string(s.Shard), modeWords(s.Before), modeWords(s.Want), state})
	}
	columns(w, "SHARD BEFORE WANTED STATE", rows)
	switch {
	case out.DryRun:
		_, _ = fmt.Fprintf(w, "\nnothing was changed: --dry-run\n")
	case changed == 0:
		_, _ = fmt.Fprintf(w, "\nnothing to change\n")
	}
}
