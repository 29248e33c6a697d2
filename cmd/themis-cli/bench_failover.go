package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/bench"
	"github.com/themisdb/themis/pkg/playground"
)

func benchFailover(a *app) *cobra.Command {
	var o bench.FailoverOptions
	var strict bool
	cmd := &cobra.Command{
		Use: "failover", Short: "Kill nodes of a cluster of processes, and measure how long its clients wait", Args: usage.None,
		Long: `failover makes a cluster of processes on this machine, at default settings, and a client that reads (STRONG) and writes a document of
each shard every few milliseconds. It kills nodes that lead a shard with kill -9, one at a time, and brings each back before the next. A pause
is the longest time without a success, from the end of the last one to the end of the next. Shards are counted apart by what they had on
the killed node. With two copies a write waits until a third node has been given a copy; how much was copied stands beside it.`,
		Example: "  themis-cli bench failover --kills 30\n  themis-cli bench failover --rf 2 --kills 8 --seed 7\n  themis-cli bench failover --kills 10 --with etcd-leader,controller",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Kills < 1 || o.Every <= 0 || o.Documents < 0 {
				return usage.Wrong("--kills %d: want at least 1; --every %s: a time above 0; --documents %d: 0 or more", o.Kills, o.Every, o.Documents)
			}
			if !cmd.Flags().Changed("seed") {
				o.Seed = uint64(rand.Uint32()) //nolint:gosec // printed, to be repeated
			}
			o.Step = func(text string) { a.say("%s", text) }
			a.say("seed %d", o.Seed)
			return timed(cmd.Context(), a, o.Dir, strict, func(ctx context.Context) (bench.FailoverResult, error) {
				return bench.Failover(ctx, playground.Host{}, o)
			}, drawFailover)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Dir, "data-dir", "", "`DIR` in which the cluster is made and removed; default: the system's for temporary files")
	fs.IntVar(&o.RF, "rf", 3, "copies of each shard, with the primary")
	fs.IntVar(&o.Nodes, "nodes", 3, "nodes")
	fs.IntVar(&o.Shards, "shards", 4, "shards")
	fs.IntVar(&o.Kills, "kills", 30, "kills of the kind that is asked for")
	fs.StringSliceVar(&o.With, "with", nil, "what the killed node must be besides: etcd-leader, controller")
	fs.IntVar(&o.Documents, "documents", 4000, "documents of 1 KB to store first, for a rebuild to copy")
	fs.DurationVar(&o.Every, "every", 10*time.Millisecond, "`TIME` between two requests of the client, for each shard and kind")
	fs.Uint64Var(&o.Seed, "seed", 0, "which nodes are killed and when; default: a random one, which is printed")
	fs.BoolVar(&strict, "strict", false, "exit code 1 where a bound is missed")
	return cmd
}

func drawFailover(w io.Writer, r bench.FailoverResult, wide bool) {
	_, _ = fmt.Fprintf(w, "%d kills, %d nodes, %s of each shard, seed %d\n", len(r.Kills), r.Nodes, copies(r.RF), r.Seed)
	var rows [][]string
	for _, g := range r.Groups {
		rows = append(rows, []string{
			string(g.Was), g.Also, fmt.Sprint(g.Kills), fmt.Sprint(g.Shards), inMs(g.Read.P50), inMs(g.Read.P99), inMs(g.Read.Max),
			inMs(g.Write.P50), inMs(g.Write.P99), inMs(g.Write.Max), humanBytes(int64(g.Copied)),
		})
	}
	columns(w, "SHARD-HAD NODE-WAS-ALSO KILLS PAUSES READ-P50 READ-P99 READ-MAX WRITE-P50 WRITE-P99 WRITE-MAX COPIED", rows)
	_, _ = fmt.Fprintln(w, "pauses in ms")
	for _, b := range r.Bounds {
		limit, verdict := limited(b.Limit, b.Met)
		_, _ = fmt.Fprintf(w, "%s: %.0f ms of %s, %s\n", b.What, b.Ms, limit, verdict)
	}
	if !wide {
		return
	}
	for _, k := range r.Kills {
		_, _ = fmt.Fprintf(w, "\nkill %d: %s led %d, %s; return %.0f ms, before %.0f ms, disk %.0f ms\n", k.N, k.Node, k.Led, k.Also(), k.ReturnMs, k.QuietMs, k.DiskMs)
		for _, s := range k.Shards {
			_, _ = fmt.Fprintf(w, "  %s (%s): read %.0f ms, write %.0f ms, copied %d bytes\n", s.Shard, s.Was, s.ReadMs, s.WriteMs, s.CopiedBytes)
		}
		for _, e := range k.Events {
			_, _ = fmt.Fprintf(w, "  %7.0f ms  %s %s %s: %s\n", e.AfterMs, e.Action, e.Subject, e.Outcome, e.Reason)
		}
	}
}

func inMs(v float64) string { return fmt.Sprintf("%.0f", v) }
