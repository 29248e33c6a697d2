package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/bench"
	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/themis"
)

func benchCommand(a *app) *cobra.Command {
	var f workloadFlags
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure a running cluster, or its parts against what the machine itself gives",
		Long: `bench measures parts of a cluster on this machine, beside the simplest program that does the same, in alternating rounds of one run; the
best round of each counts. Judge by the ratio: absolute figures say as much about the machine as about ThemisDB. Run it on a quiet
machine, with --data-dir on the disk that is to be measured. Nothing stays behind.` + workloadHelp,
		Example: "  themis-cli bench --shards 4 --mix B --duration 600 --threads 64\n  themis-cli bench --mix reads=80,cross=20 --rate 2000 -o json",
	}
	group(cmd, benchRouting(a), benchStore(a), benchWAL(a), benchReplication(a), benchClient(a), benchStart(a), benchRestart(a), benchFailover(a))
	f.register(cmd.Flags())
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage.Unknown(cmd, args)
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.workload(cmd, f) }
	return cmd
}

// benchRunCommand is a process of a benchmark inside this binary.
func benchRunCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "bench-run", Short: "Be a process of a benchmark", Hidden: true, Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error { return bench.Work(cmd.Context(), a.in, a.out) },
	}
}

// comparisonFlags are those of every benchmark that compares in rounds.
type comparisonFlags struct {
	options bench.Options
	strict  bool
}

func (f *comparisonFlags) register(cmd *cobra.Command, writers string, cases ...int) {
	cmd.Flags().IntSliceVar(&f.options.Writers, writers, cases, "how many at once, a case each")
	f.registerRounds(cmd, time.Second)
}

// registerRounds are those of a benchmark of one at a time.
func (f *comparisonFlags) registerRounds(cmd *cobra.Command, each time.Duration) {
	fs := cmd.Flags()
	fs.StringVar(&f.options.Dir, "data-dir", "", "`DIR` on the disk to be measured; default: the system's for temporary files")
	fs.IntVar(&f.options.Rounds, "rounds", 5, "rounds of each case")
	fs.DurationVar(&f.options.Each, "each", each, "`TIME` of a round")
	fs.IntVar(&f.options.EntryBytes, "entry-bytes", 1024, "bytes of a document")
	fs.BoolVar(&f.strict, "strict", false, "exit code 1 where a floor is missed")
}

// check refuses what can't be measured; 0 would mean a default.
func (f *comparisonFlags) check(o bench.Options) error {
	switch {
	case o.Rounds < 1:
		return usage.Wrong("--rounds %d: want at least 1", o.Rounds)
	case o.Each <= 0:
		return usage.Wrong("--each %s: want a time above 0", o.Each)
	case o.EntryBytes < 1:
		return usage.Wrong("--entry-bytes %d: want at least 1", o.EntryBytes)
	}
	return benchDir(o.Dir)
}

// benchDir says before anything runs that a directory is not there.
func benchDir(dir string) error {
	if dir == "" {
		return nil
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", dir)
	}
	if err != nil {
		return usage.Wrong("--data-dir: %v", err).Do("mkdir -p %s", dir)
	}
	return nil
}

// untilUnread ends ctx also when nobody reads the output any more, so that a benchmark takes its processes along. The signal alone
// does not say so: it comes as well when a connection to a killed node breaks.
func untilUnread(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	go func() { // ends with ctx
		for {
			select {
			case <-ctx.Done():
				return
			case <-broken:
				if unread(os.Stdout) || unread(os.Stderr) {
					cancel()
				}
			}
		}
	}()
	return ctx, func() {
		signal.Stop(broken)
		cancel()
	}
}

// unread says whether f is a pipe that nobody reads any more.
func unread(f *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd())}} //nolint:gosec // a small number
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
}

func (a *app) benchHost() (bench.Host, error) {
	self, err := os.Executable()
	if err != nil {
		return bench.Host{}, themis.Errorf(themis.Internal, "find this program: %w", err)
	}
	return bench.Host{Binary: self, Args: []string{"bench-run"}, Environ: os.Environ()}, nil
}

func (a *app) compare(ctx context.Context, f comparisonFlags, run func(context.Context, bench.Options) (bench.Comparison, error)) error {
	if err := f.check(f.options); err != nil {
		return err
	}
	ctx, stop := untilUnread(ctx)
	defer stop()
	ctx, cancel := a.limited(ctx, 0)
	defer cancel()
	f.options.Step = func(text string) { a.say("%s", text) }
	c, err := run(ctx, f.options)
	if err != nil {
		return err
	}
	if f.strict && !c.Met() {
		a.answer(themis.ExitFailed)
	}
	return a.print(c, func(w io.Writer, wide bool) { drawComparison(w, c, wide) })
}

func benchWAL(a *app) *cobra.Command {
	var f comparisonFlags
	cmd := &cobra.Command{
		Use: "wal", Short: "Durable appends to the log, beside a loop of write and fdatasync", Args: usage.None,
		Example: "  themis-cli bench wal --data-dir /var/lib/themis\n  themis-cli bench wal --writers 1,64 --rounds 10 -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.compare(cmd.Context(), f, bench.WAL) },
	}
	f.register(cmd, "writers", 1, 16, 64, 256)
	return cmd
}

func benchRouting(a *app) *cobra.Command {
	var f comparisonFlags
	cmd := &cobra.Command{
		Use: "routing", Short: "The shard of a token and of a key, beside a binary search and the hash alone", Args: usage.None,
		Example: "  themis-cli bench routing",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.compare(cmd.Context(), f, bench.Routing) },
	}
	f.registerRounds(cmd, 200*time.Millisecond)
	for _, none := range []string{"data-dir", "entry-bytes"} {
		_ = cmd.Flags().MarkHidden(none) //nolint:errcheck // it is there: registered above
	}
	return cmd
}

func benchStore(a *app) *cobra.Command {
	var f comparisonFlags
	cmd := &cobra.Command{
		Use: "store", Short: "Documents applied in a burst and sustained, and read, beside a bare Pebble", Args: usage.None,
		Example: "  themis-cli bench store --data-dir /var/lib/themis",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.compare(cmd.Context(), f, bench.Store) },
	}
	f.registerRounds(cmd, 3*time.Second)
	return cmd
}

func benchReplication(a *app) *cobra.Command {
	var f comparisonFlags
	cmd := &cobra.Command{
		Use: "replication", Short: "SYNC writes on three processes, beside bare TLS and three times write and fdatasync", Args: usage.None,
		Example: "  themis-cli bench replication --data-dir /var/lib/themis",
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.benchHost()
			if err != nil {
				return err
			}
			return a.compare(cmd.Context(), f, func(ctx context.Context, o bench.Options) (bench.Comparison, error) {
				return bench.Replication(ctx, h, o)
			})
		},
	}
	cmd.Flags().StringVar(&f.options.Profile, "profile", "", "`DIR` for processor profiles of the three processes, of the last round of each case")
	f.register(cmd, "writers", 1, 16, 64, 256)
	return cmd
}

func benchClient(a *app) *cobra.Command {
	var f comparisonFlags
	var peer string
	cmd := &cobra.Command{
		Use: "client", Short: "The Go client and a cluster of three, beside etcd with three members and its client", Args: usage.None,
		Long: `client runs a cluster of three nodes with three copies of each shard under SYNC, and an etcd cluster of three members, each node and member a
process of this program with mutual TLS and default settings. So many clients put, then get, documents in both, in alternating rounds; each
waits for its answer. The Go client batches puts on its streams; both clients go straight to who leads.`,
		Example: "  themis-cli bench client --peer etcd --clients 1,16,64",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if peer != "etcd" {
				return usage.Wrong("--peer %q: want etcd", peer)
			}
			h, err := a.benchHost()
			if err != nil {
				return err
			}
			return a.compare(cmd.Context(), f, func(ctx context.Context, o bench.Options) (bench.Comparison, error) {
				return bench.Client(ctx, playground.Host{}, h, o)
			})
		},
	}
	f.register(cmd, "clients", 1, 16, 64)
	cmd.Flags().IntVar(&f.options.Shards, "shards", 4, "shards of our cluster; etcd has one log for all")
	cmd.Flags().StringVar(&peer, "peer", "etcd", "what to compare with: etcd")
	return cmd
}

// timed runs a benchmark that has limits, and prints what it measured.
func timed[R interface{ Met() bool }](ctx context.Context, a *app, dir string, strict bool, run func(context.Context) (R, error), draw func(io.Writer, R, bool)) error {
	if err := benchDir(dir); err != nil {
		return err
	}
	ctx, stop := untilUnread(ctx)
	defer stop()
	ctx, cancel := a.limited(ctx, 0)
	defer cancel()
	r, err := run(ctx)
	if err != nil {
		return err
	}
	if strict && !r.Met() {
		a.answer(themis.ExitFailed)
	}
	return a.print(r, func(w io.Writer, wide bool) { draw(w, r, wide) })
}

func benchStart(a *app) *cobra.Command {
	var o bench.StartOptions
	var strict bool
	cmd := &cobra.Command{
		Use: "start", Short: "Three processes, from nothing until they are a HEALTHY cluster, and again after kill -9 of all", Args: usage.None,
		Example: "  themis-cli bench start --data-dir /var/lib/themis",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Rounds < 1 {
				return usage.Wrong("--rounds %d: want at least 1", o.Rounds)
			}
			h, err := a.benchHost()
			if err != nil {
				return err
			}
			o.Step = func(text string) { a.say("%s", text) }
			return timed(cmd.Context(), a, o.Dir, strict, func(ctx context.Context) (bench.StartResult, error) {
				return bench.Starts(ctx, playground.Host{}, h, o)
			}, drawStart)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Dir, "data-dir", "", "`DIR` in which the clusters are made and removed; default: the system's for temporary files")
	fs.IntVar(&o.Rounds, "rounds", 5, "starts of each case")
	fs.BoolVar(&strict, "strict", false, "exit code 1 where the limit is missed")
	return cmd
}

func drawStart(w io.Writer, r bench.StartResult, _ bool) {
	_, _ = fmt.Fprintln(w, "three processes on this machine; HEALTHY, and for etcd a leader")
	var rows [][]string
	for _, x := range r.Rows {
		limit, verdict := limited(x.LimitMs, x.Met)
		rows = append(rows, []string{strings.ReplaceAll(x.Case, " ", "-"), millis(x.MedianMs), millis(x.WorstMs), limit, verdict})
	}
	columns(w, "CASE MEDIAN WORST LIMIT VERDICT", rows)
}

// limited says what a limit is, and whether it is met.
func limited(ms float64, met bool) (limit, verdict string) {
	switch {
	case ms == 0:
		return "-", "-"
	case met:
		return fmt.Sprintf("%.0f ms", ms), "met"
	}
	return fmt.Sprintf("%.0f ms", ms), "NOT MET"
}

func benchRestart(a *app) *cobra.Command {
	var o bench.RestartOptions
	var strict bool
	cmd := &cobra.Command{
		Use: "restart", Short: "A copy with a million entries in its log, from kill -9 until it answers again", Args: usage.None,
		Example: "  themis-cli bench restart --data-dir /var/lib/themis",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Entries < 1 || o.Rounds < 1 || o.EntryBytes < 1 || o.Unapplied < 0 {
				return usage.Wrong("--entries %d, --rounds %d, --entry-bytes %d: want at least 1 of each; --unapplied %d: 0 or more", o.Entries, o.Rounds, o.EntryBytes, o.Unapplied)
			}
			h, err := a.benchHost()
			if err != nil {
				return err
			}
			o.Step = func(text string) { a.say("%s", text) }
			return timed(cmd.Context(), a, o.Dir, strict, func(ctx context.Context) (bench.RestartResult, error) { return bench.Restarts(ctx, h, o) }, drawRestart)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Dir, "data-dir", "", "`DIR` on the disk to be measured; default: the system's for temporary files")
	fs.IntVar(&o.Entries, "entries", 1_000_000, "entries in the log")
	fs.IntVar(&o.Unapplied, "unapplied", 1000, "of them, written after the store was last on disk")
	fs.IntVar(&o.Rounds, "rounds", 5, "restarts of each case")
	fs.IntVar(&o.EntryBytes, "entry-bytes", 256, "bytes of a document")
	fs.BoolVar(&strict, "strict", false, "exit code 1 where the limit is missed")
	return cmd
}

func drawRestart(w io.Writer, r bench.RestartResult, _ bool) {
	_, _ = fmt.Fprintf(w, "%d entries, a log of %s; from the start of the process until the copy leads and answers\n", r.Entries, humanBytes(int64(r.LogBytes)))
	var rows [][]string
	for _, x := range r.Rows {
		limit, verdict := limited(x.LimitMs, x.Met)
		rows = append(rows, []string{strings.ReplaceAll(x.Case, " ", "-"), fmt.Sprint(x.Unapplied), millis(x.OpenMs), millis(x.ServingMs), millis(x.WorstMs), limit, verdict})
	}
	columns(w, "CASE UNAPPLIED OPEN SERVING WORST LIMIT VERDICT", rows)
}

var verdicts = map[bench.Verdict]string{bench.Goal: "goal reached", bench.AtFloor: "floor holds", bench.Below: "BELOW FLOOR", bench.NotJudged: "-"}

func drawComparison(w io.Writer, c bench.Comparison, wide bool) {
	_, _ = fmt.Fprintf(w, "ours  %s\nbase  %s\n", c.Ours, c.Base)
	head := "OP AT-ONCE OURS/S BASE/S RATIO FLOOR GOAL VERDICT P50 P99"
	if wide {
		head += " ROUNDS"
	}
	var rows [][]string
	for _, r := range c.Rows {
		floor, goal := "-", "-"
		if r.Target != nil {
			floor, goal = fmt.Sprintf("%.2f", r.Floor), fmt.Sprintf("%.2f", r.Goal)
		}
		row := []string{r.Op, fmt.Sprint(r.AtOnce), fmt.Sprintf("%.0f", r.Ours), fmt.Sprintf("%.0f", r.Base), fmt.Sprintf("%.2f", r.Ratio), floor, goal, verdicts[r.Verdict], millis(r.P50), millis(r.P99)}
		if wide {
			var each []string
			for _, x := range r.Rounds {
				each = append(each, fmt.Sprintf("%.0f/%.0f", x.Ours, x.Base))
			}
			row = append(row, strings.Join(each, " "))
		}
		rows = append(rows, row)
	}
	columns(w, head, rows)
}

func millis(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f ms", v)
}
