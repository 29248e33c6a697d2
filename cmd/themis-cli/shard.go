package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/tui"
)

func shardCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "shard", Short: "The shards and their copies"}, shardList(a), shardShow(a), shardRemoveCopy(a), shardFailover(a))
}

// shardFailover is the noun of its one command; a failover that is asked for comes later.
func shardFailover(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "failover", Short: "Who would lead a shard without its primary", Args: cobra.ArbitraryArgs, FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE: func(*cobra.Command, []string) error {
			return verb{"shard failover", "themis-cli shard failover candidates SHARD"}.answer()
		},
	}
	cmd.AddCommand(shardCandidates(a))
	return cmd
}

// withReport asks for the report and for the same as JSON, in which fields stand that this version doesn't know.
func (a *app) withReport(ctx context.Context, do func(r health.Report, raw rawReport) error) error {
	return a.withClient(ctx, askTime, func(ctx context.Context, c *client.Client) error {
		f, err := c.Frame(ctx)
		if err != nil {
			return a.unjudged(err)
		}
		var raw rawReport
		if err := json.Unmarshal(f.ReportJSON, &raw); err != nil {
			return themis.Errorf(themis.Internal, "health report: %w", err)
		}
		return do(f.Report, raw)
	})
}

// rawReport is the report with its parts as they were sent.
type rawReport struct {
	Nodes  []json.RawMessage `json:"nodes"`
	Shards []json.RawMessage `json:"shards"`
}

func shardList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the shards", Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withReport(cmd.Context(), func(r health.Report, raw rawReport) error {
				return a.print(raw.Shards, func(w io.Writer, wide bool) { shardTable(w, r, wide) })
			})
		},
	}
}

func shardShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show SHARD", Short: "Show a shard, its copies, and what is wrong with it", Args: usage.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := themis.ParseShardID(args[0])
			if err != nil {
				return err
			}
			return a.withReport(cmd.Context(), func(r health.Report, raw rawReport) error {
				for i, s := range r.Shards {
					if s.ID == id {
						return a.print(raw.Shards[i], func(w io.Writer, _ bool) { showShard(w, a, r, s) })
					}
				}
				return notFound("shard", string(id), "themis-cli shard list")
			})
		},
	}
}

func showShard(w io.Writer, a *app, r health.Report, s health.ShardReport) {
	list := []string{
		"shard", string(s.ID), "state", string(s.State), "primary", dash(string(s.Primary)), "epoch", fmt.Sprint(s.Epoch),
		"mode", fmt.Sprintf("%s, %d copies, %s must have a write", s.Mode, s.RF, counted(s.K, "follower")), "in sync", ids(s.ISR),
		"reads", yesNo(s.Readable), "writes", yesNo(s.Writable), "documents", number(s.Documents), "size", size(s.Bytes), "token share", percent(s.TokenShare),
		"commit seq", number(s.Commit), "queued writes", number(s.Queued), "lost if the primary dies", number(s.CrashCost.Entries) + " entries",
	}
	if s.Want != nil {
		list = append(list, "wanted", fmt.Sprintf("%s, %d copies, %d followers", s.Want.Mode, s.Want.RF, s.Want.K))
	}
	pairs(w, list...)
	_, _ = fmt.Fprintln(w)
	replicaTable(w, s)
	about := r
	about.Findings = nil
	for _, f := range r.Findings {
		if f.Subject == string(s.ID) || len(f.Subject) > len(s.ID) && f.Subject[:len(s.ID)+1] == string(s.ID)+"/" {
			about.Findings = append(about.Findings, f)
		}
	}
	st, width := a.style()
	st.All = true
	if text := tui.Findings(about, width, st); text != "" {
		_, _ = fmt.Fprintf(w, "\n%s", text)
	}
}

// removedCopy is the JSON of `shard remove-copy`.
type removedCopy struct {
	Shard   themis.ShardID `json:"shard"`
	Node    themis.NodeID  `json:"node"`
	Changed bool           `json:"changed"` // false: there was no such copy
	DryRun  bool           `json:"dry_run"` // nothing was changed; the rest is what would be
	Bytes   themis.Bytes   `json:"bytes"`   // that the copy takes, or took
	Rescued string         `json:"rescued"` // the file on the node with what the primary's log may lack; empty: none was needed
	Writes  int            `json:"writes"`  // in it
	Steps   []string       `json:"steps"`
	Note    string         `json:"note"`
}

func shardRemoveCopy(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "remove-copy SHARD NODE", Short: "Let a node delete a copy that is in use no more",
		Long: `Let a node delete the copy of a shard that is in use no more and that it keeps: cluster health -o wide tells of it as UNUSED_COPY.

What the copy's log holds and the primary's is not known to hold is saved first, one write a line, in rescued/ beside the copy. The
copy is refused while it is in the map, while the shard's other copies are not all in sync, and while the node can't tell what its log
holds. No such copy is no error.`,
		Example: "  themis-cli shard remove-copy shard-1 node-2 --dry-run",
		Args:    usage.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := themis.ParseShardID(args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), membershipTime, func(ctx context.Context, c *client.Client) error {
				var out removedCopy
				if err := c.Act(ctx, "shard.remove-copy", map[string]any{"shard": id, "node": args[1]}, dryRun, &out); err != nil {
					return err
				}
				return a.print(out, func(w io.Writer, _ bool) { showRemovedCopy(w, out) })
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, or why it is refused, and change nothing")
	return cmd
}

func showRemovedCopy(w io.Writer, out removedCopy) {
	verb := "is removed"
	switch {
	case !out.Changed:
		verb = "was not removed; nothing was changed"
	case out.DryRun:
		verb = "would be removed; nothing was changed"
	}
	_, _ = fmt.Fprintf(w, "the copy of %s on %s %s\n", out.Shard, out.Node, verb)
	showSteps(w, out.DryRun, out.Steps)
	if out.Rescued != "" {
		pairs(w, "rescued", out.Rescued, "writes", fmt.Sprint(out.Writes))
	}
	pairs(w, "note", out.Note)
	if out.DryRun && out.Changed {
		_, _ = fmt.Fprintf(w, "next: themis-cli shard remove-copy %s %s\n", out.Shard, out.Node)
	}
}

func shardCandidates(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "candidates SHARD", Short: "Say who would lead if the primary were gone, and why the others would not",
		Long: `Say who would lead the shard if its primary were gone now, with the rule that speaks for or against each copy. It counts as an election
would, by what the copies last said of themselves; nothing is asked of them that ends a reign, and nothing is changed.`,
		Example: "  themis-cli shard failover candidates shard-1", Args: usage.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := themis.ParseShardID(args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), askTime, func(ctx context.Context, c *client.Client) error {
				var out health.Candidates
				if err := c.Act(ctx, "shard.candidates", map[string]any{"shard": id}, true, &out); err != nil {
					return err
				}
				return a.print(out, func(w io.Writer, _ bool) { candidatesText(w, out) })
			})
		},
	}
}

func candidatesText(w io.Writer, out health.Candidates) {
	var rows [][]string
	for _, c := range out.Copies {
		verdict := "no"
		if c.Wins {
			verdict = "would lead"
		}
		rows = append(rows, []string{string(c.Node), verdict, c.Rule, number(c.Seq), number(c.LastEpoch), c.Detail})
	}
	columns(w, "NODE VERDICT RULE SEQ EPOCH WHY", rows)
	what := fmt.Sprintf("%s, %s, epoch %d", out.Shard, out.Mode, out.Epoch)
	switch {
	case out.Winner == "":
		_, _ = fmt.Fprintf(w, "\n%s: nobody would lead: %s\nnext: themis-cli shard show %s\n", what, out.Why, out.Shard)
	case out.MayLose:
		_, _ = fmt.Fprintf(w, "\n%s: %s would lead; writes that were acknowledged and that it lacks would be lost\n", what, out.Winner)
	default:
		_, _ = fmt.Fprintf(w, "\n%s: %s would lead and lack nothing that was acknowledged\n", what, out.Winner)
	}
}
