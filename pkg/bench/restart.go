package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// RestartOptions of a series of restarts. Zero values take the defaults.
type RestartOptions struct {
	Dir        string
	Entries    int // in the log; default 1,000,000
	Unapplied  int // of them, written after the store was last on disk; default 1,000
	Rounds     int // restarts of each case; default 5
	EntryBytes int // of a document; default 256
	Step       func(string)
}

func (o RestartOptions) complete() (RestartOptions, error) {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.Entries, 1_000_000)
	set(&o.Unapplied, 1000)
	set(&o.Rounds, 5)
	set(&o.EntryBytes, 256)
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.Entries < 1 || o.Entries > 1<<30 || o.Unapplied < 1 || o.Unapplied > o.Entries || o.Rounds < 1 || o.Rounds > 1000 || o.EntryBytes < 1 || o.EntryBytes > 1<<20 {
		return o, themis.Errorf(themis.InvalidArgument, "%d entries of %d bytes, %d unapplied, %d rounds: want 1 to %d entries, no more unapplied than there are, 1 to 1000 rounds, at most 1048576 bytes",
			o.Entries, o.EntryBytes, o.Unapplied, o.Rounds, 1<<30)
	}
	return o, nil
}

// restartLimit is for a copy of a million entries of which few are unapplied.
const restartLimit = 2 * time.Second

// Restart is one case.
type Restart struct {
	Case      string    `json:"case"`
	Unapplied int64     `json:"unapplied"`  // in the log and not in the store when the process began, in the last round
	OpenMs    float64   `json:"open_ms"`    // the copy itself, median
	ServingMs float64   `json:"serving_ms"` // from the start of the process until it leads and answers, median
	WorstMs   float64   `json:"worst_ms"`   // of ServingMs
	LimitMs   float64   `json:"limit_ms,omitempty"`
	Met       bool      `json:"met"` // the worst is within the limit; true where there is none
	Rounds    []float64 `json:"rounds_ms"`

	opens []float64
}

// RestartResult is a whole run.
type RestartResult struct {
	Benchmark  string       `json:"benchmark"`
	Entries    int          `json:"entries"`
	EntryBytes int          `json:"entry_bytes"`
	LogBytes   themis.Bytes `json:"log_bytes"`
	Began      time.Time    `json:"began"`
	Rows       []Restart    `json:"rows"`
}

// Met answers whether every limit holds.
func (r RestartResult) Met() bool {
	return !slices.ContainsFunc(r.Rows, func(x Restart) bool { return !x.Met })
}

// Restarts fills a copy, kills its process with kill -9 some writes after the store was last on disk, and measures how long a new
// process takes until that copy leads and answers again; with the files in the page cache, and with them dropped from it. A third
// case is killed in the middle of the load, so that much must be applied anew; it has no limit. Every acknowledged write must be there.
func Restarts(ctx context.Context, h Host, o RestartOptions) (r RestartResult, err error) {
	r = RestartResult{Benchmark: "restart", Began: time.Now()}
	if o, err = o.complete(); err != nil {
		return r, err
	}
	r.Entries, r.EntryBytes = o.Entries, o.EntryBytes
	dir, err := os.MkdirTemp(o.Dir, "restart-bench-")
	if err != nil {
		return r, fmt.Errorf("bench restart: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files, err := certificates(filepath.Join(dir, "pki"), []themis.NodeID{loner})
	if err != nil {
		return r, err
	}
	l := &lonely{h: h, o: o, dir: dir, files: files[loner]}
	defer func() { err = errors.Join(err, l.end()) }()
	if _, err := l.begin(ctx); err != nil {
		return r, err
	}
	if err := l.write(o.Entries); err != nil {
		return r, err
	}
	o.Step(fmt.Sprintf("restart: %d entries written", o.Entries))
	load := Restart{Case: "killed under load", Met: true}
	if err := l.round(ctx, &load, false); err != nil {
		return r, err
	}
	warm, cold := Restart{Case: "few unapplied", LimitMs: ms(restartLimit)}, Restart{Case: "few unapplied, files not in memory", LimitMs: ms(restartLimit)}
	for _, x := range []*Restart{&warm, &cold} {
		for range o.Rounds {
			if err := l.few(ctx); err != nil {
				return r, err
			}
			if err := l.round(ctx, x, x == &cold); err != nil {
				return r, err
			}
		}
	}
	r.LogBytes = l.logBytes
	for _, x := range []*Restart{&warm, &cold, &load} {
		x.sum()
		r.Rows = append(r.Rows, *x)
		o.Step(fmt.Sprintf("restart: %s: %.0f ms at the median, %.0f ms at worst, %d unapplied", x.Case, x.ServingMs, x.WorstMs, x.Unapplied))
	}
	return r, nil
}

// sum takes the median and the worst of the rounds.
func (x *Restart) sum() {
	x.OpenMs, x.ServingMs, x.WorstMs = spread(x.opens).P50, spread(slices.Clone(x.Rounds)).P50, slices.Max(x.Rounds)
	x.Met = x.LimitMs == 0 || x.WorstMs <= x.LimitMs
}

const loner = themis.NodeID("node-1")

// lonely is one copy without followers, and the process that has it.
type lonely struct {
	h     Host
	o     RestartOptions
	dir   string
	files pki.Files

	p        *process
	epoch    themis.Epoch
	acked    themis.Seq
	logBytes themis.Bytes
	writes   int
}

func (l *lonely) home() string { return filepath.Join(l.dir, string(loner)) }

// begin starts a process; it returns when the copy leads and answers.
func (l *lonely) begin(ctx context.Context) (at opened, err error) {
	if l.p, err = l.h.start(ctx, string(loner)); err != nil {
		return at, err
	}
	if err := os.MkdirAll(l.home(), 0o700); err != nil {
		return at, err
	}
	if err := l.p.ask("serve", serveArgs{Node: loner, Files: l.files, Dir: l.home()}, nil); err != nil {
		return at, err
	}
	return at, l.open(&at)
}

func (l *lonely) open(at *opened) error {
	if err := l.p.ask("open", openArgs{Dir: l.home(), Keep: true}, at); err != nil {
		return err
	}
	l.epoch++
	return l.p.ask("learn", learnArgs{Record: l.record()}, nil)
}

// record is that of a shard with one copy.
func (l *lonely) record() cluster.Shard {
	policy := cluster.Policy{Mode: themis.Async, RF: 1}
	return cluster.Shard{
		Format: cluster.Format, ID: benchShard, Epoch: l.epoch, Primary: memberOf(loner), Boot: bootOf(loner), Want: policy, Have: policy,
		Revision: themis.Revision(l.epoch), Replicas: []cluster.Replica{{Member: memberOf(loner), Class: cluster.Voter}}, ISR: []cluster.Member{memberOf(loner)}, //nolint:gosec // small
	}
}

func (l *lonely) write(n int) error {
	var w written
	l.writes++
	err := l.p.ask("write", writeArgs{Writers: 256, Bytes: l.o.EntryBytes, Round: l.writes, Total: int64(n)}, &w)
	l.acked = w.Last
	return err
}

// few leaves a few entries behind the store that is on disk.
func (l *lonely) few(context.Context) error {
	if err := l.p.ask("shut", struct{}{}, nil); err != nil {
		return err
	}
	var at opened
	if err := l.open(&at); err != nil {
		return err
	}
	return l.write(l.o.Unapplied)
}

// round kills the process and measures the next one.
func (l *lonely) round(ctx context.Context, x *Restart, cold bool) error {
	if err := l.p.kill(); err != nil {
		return err
	}
	l.p = nil
	if cold {
		if err := forget(l.home()); err != nil {
			return fmt.Errorf("drop %s from the page cache: %w", l.home(), err)
		}
	}
	began := time.Now()
	at, err := l.begin(ctx)
	if err != nil {
		return err
	}
	x.Rounds, x.opens = append(x.Rounds, ms(time.Since(began))), append(x.opens, ms(at.Took))
	x.Unapplied, l.logBytes = int64(at.Last-at.Stored), at.LogBytes //nolint:gosec // small
	if at.Last < l.acked {
		return themis.Errorf(themis.Corrupt, "the log ends at seq %d after the restart, seq %d was acknowledged", at.Last, l.acked)
	}
	return nil
}

func (l *lonely) end() error {
	if l.p == nil {
		return nil
	}
	return l.p.stop()
}

// forget takes the files below dir out of the page cache.
func forget(dir string) error {
	unix.Sync()
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name) //nolint:gosec // our own
		if err != nil {
			return err
		}
		return errors.Join(uncache(f), f.Close())
	})
}
