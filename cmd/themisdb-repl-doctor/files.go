package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/doctor"
)

const dataDirUsage = "a node's data `DIR`, one of its shards, a log, or a playground ($THEMIS_DATA_DIR; default: the playground); may be repeated"

func (a *app) validateCommand() *cobra.Command {
	var dirs []string
	var shard string
	var segment uint64
	c := &cobra.Command{
		Use: "validate-wal", Short: "Check a log's files, entry by entry, its node stopped or running", Args: usage.None,
		Long: `validate-wal reads the logs below a data directory and changes nothing: every checksum, the order of seq, lsn and epochs, whose log it
is, and whether it still holds all that it once had durable. Its node may run: a log that grows meanwhile is told from a torn one.

Exit code: 0 every log is sound (a torn tail is: what was torn was never acknowledged), 1 damage, 2 no such log or segment, 3 a log
could not be read.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			only, err := shardOf(shard)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("segment") && segment == 0 {
				return usage.Wrong("--segment 0: want the first seq of a segment, or its number, from 1")
			}
			where, err := a.dataDirs(dirs)
			if err != nil {
				return err
			}
			logs, err := doctor.FindLogs(where, only)
			if err != nil {
				return err
			}
			ctx, cancel := a.limited(cmd.Context())
			defer cancel()
			r, err := doctor.Validate(ctx, logs, doctor.ValidateOptions{Segment: segment}, a.now)
			if err != nil {
				return err
			}
			a.code = r.Exit()
			return a.print(r, func(w io.Writer) { drawLogs(w, r) })
		},
	}
	c.Flags().StringArrayVar(&dirs, "data-dir", nil, dataDirUsage)
	c.Flags().StringVar(&shard, "shard", "", "only the logs of `SHARD`")
	c.Flags().Uint64Var(&segment, "segment", 0, "only the segment that begins at seq `N`, else the N-th of each log")
	return c
}

func drawLogs(w io.Writer, r doctor.WALReport) {
	var rows [][]string
	for _, l := range r.Logs {
		seqs := "-"
		if l.Entries > 0 {
			seqs = span(l.First, l.Last)
		}
		epochs := "-"
		if n := len(l.Epochs); n > 0 {
			epochs = span(l.Epochs[0].Epoch, l.Epochs[n-1].Epoch)
		}
		mark := "-"
		if l.Mark != nil {
			mark = fmt.Sprint(*l.Mark)
		}
		state := string(l.Verdict)
		if l.Growing {
			state += ", growing"
		}
		rows = append(rows, []string{dash(string(l.Shard)), dash(string(l.Node)), fmt.Sprint(l.Entries), seqs, epochs, mark, fmt.Sprint(len(l.Segments)), humanBytes(int64(l.Bytes)), state})
	}
	columns(w, "SHARD|NODE|ENTRIES|SEQ|EPOCHS|MARK|SEGMENTS|SIZE|VERDICT", rows)
	for _, l := range r.Logs {
		drawFindings(w, l.Findings)
		if more := l.FindingsTotal - len(l.Findings); more > 0 {
			_, _ = fmt.Fprintf(w, "\nand %d more in %s\n", more, l.Dir)
		}
		drawUnlooked(w, l.Inconclusive)
	}
	_, _ = fmt.Fprintf(w, "\n%s checked in %s: %s\n", count(r.Entries, "entry", "entries"), count(len(r.Logs), "log", "logs"), r.Verdict)
}

func count(n int, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// span is 3-9, or 3 where there is only that.
func span[T ~uint64](from, to T) string {
	if from == to {
		return fmt.Sprintf("%d", from)
	}
	return fmt.Sprintf("%d-%d", from, to)
}

func humanBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= unit && i < 5 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[i])
}

func (a *app) lossesCommand() *cobra.Command {
	var dirs []string
	var shard string
	c := &cobra.Command{
		Use: "losses", Short: "List acknowledged writes that were cut and kept aside, and damaged parts that were set aside", Args: usage.None,
		Long: `losses lists what the copies below a data directory keep in rescued/: writes that a replaced primary had acknowledged alone.
Where no log tells which these are, a file has all that they may be, and "unsure" in its name: the shard may have some of them. It
also lists logs and stores that a node moved aside because they were damaged. It only reads.

Exit code: 0 there is nothing, 1 there is something, 2 no such directory, 3 it could not be read.`,
		RunE: func(*cobra.Command, []string) error {
			only, err := shardOf(shard)
			if err != nil {
				return err
			}
			where, err := a.dataDirs(dirs)
			if err != nil {
				return err
			}
			r, err := doctor.Losses(where, only, a.now())
			if err != nil {
				return err
			}
			a.code = r.Exit()
			return a.print(r, func(w io.Writer) { drawLosses(w, r) })
		},
	}
	c.Flags().StringArrayVar(&dirs, "data-dir", nil, dataDirUsage)
	c.Flags().StringVar(&shard, "shard", "", "only copies of `SHARD`")
	return c
}

func drawLosses(w io.Writer, r doctor.LossReport) {
	var rows [][]string
	for _, f := range r.Rescued {
		rows = append(rows, []string{dash(string(f.Shard)), dash(string(f.Node)), fmt.Sprint(f.Writes), span(f.First, f.Last), fmt.Sprint(f.Epoch), f.Modified.Format(time.RFC3339), f.File})
	}
	if len(rows) > 0 {
		columns(w, "SHARD|NODE|WRITES|SEQ|EPOCH|RESCUED|FILE", rows)
		_, _ = fmt.Fprintln(w)
	}
	for _, f := range r.Rescued {
		if f.Problem != "" {
			_, _ = fmt.Fprintf(w, "not all of %s could be read: %s\n\n", f.File, f.Problem)
		}
	}
	rows = nil
	for _, s := range r.SetAside {
		rows = append(rows, []string{dash(string(s.Shard)), dash(string(s.Node)), s.Part, s.Time.Format(time.RFC3339), s.Dir})
	}
	if len(rows) > 0 {
		columns(w, "SHARD|NODE|PART|SET ASIDE|DIRECTORY", rows)
		_, _ = fmt.Fprintln(w)
	}
	drawUnlooked(w, r.Problems)
	_, _ = fmt.Fprintf(w, "%s looked at: %s in %s, %s set aside\n", count(r.Copies, "copy", "copies"), count(r.Writes, "rescued write", "rescued writes"),
		count(len(r.Rescued), "file", "files"), count(len(r.SetAside), "damaged part", "damaged parts"))
}
