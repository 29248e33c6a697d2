package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
)

// loadFlags are those of `load`.
type loadFlags struct {
	collection, keyField, run, concern string
	workers                            int
	verify, only                       bool
	rows                               rowFlags
}

// loadAnswer is the JSON of `load`.
type loadAnswer struct {
	File        string      `json:"file"` // empty: a data set
	Dataset     string      `json:"dataset,omitempty"`
	Seed        *uint64     `json:"seed,omitempty"`
	Present     *int64      `json:"present,omitempty"` // rows of the data set that were there already, and are not among Lines
	Collection  string      `json:"collection"`
	Run         string      `json:"run"`   // for --resume
	Lines       int64       `json:"lines"` // or rows
	Written     int64       `json:"written"`
	Failed      int64       `json:"failed"`
	Overtaken   int64       `json:"overtaken,omitempty"` // lines that a load which goes on left out: their key comes again further down
	Bytes       int64       `json:"bytes"`               // of the documents that were written
	Errors      []lineFault `json:"errors"`              // the first 100
	Duration    int64       `json:"duration_ms"`
	Rate        float64     `json:"documents_per_second"`
	Verified    *int64      `json:"verified"` // documents that were read back and are equal; null: not asked for
	Different   *int64      `json:"different"`
	Differences []lineFault `json:"differences"` // the first 100
}

// lineFault is what is wrong with one line or row.
type lineFault struct {
	Line   int64       `json:"line"`
	Key    string      `json:"key"` // empty: the line has none
	Code   themis.Code `json:"code,omitempty"`
	Detail string      `json:"detail"`
}

func loadCommand(a *app) *cobra.Command {
	var f loadFlags
	cmd := &cobra.Command{
		Use: "load [FILE.ndjson]", Short: "Load documents from a file, one JSON object a line, or a generated data set",
		Long: `Load documents from a file (or - for stdin), one JSON object a line; each line is stored as it is, under the key that its --key-field
holds. Lines that can't be are listed and left out. Of several lines with one key the last one stays.

Every line's write has a request id made of the run, the file's digest and the line, so that a load that broke off can be repeated
with --resume RUN: what was written within the last 10 minutes is not written again.

--dataset oltp|vectors makes the documents: rows whose bytes follow from --seed and their number. The same command, repeated, goes on
behind the rows that are there, however the one before ended; --again writes all of them. More than the disks can hold is refused.
--config is the cluster's configuration: where the cluster has another one, the load is refused.

--verify reads every document back and compares it byte for byte; --verify-only does nothing else.

Exit code: 0 all written, 7 a part, 1 none, or a difference.`,
		Example: "  themis-cli load testdata/airports.ndjson --verify\n  themis-cli load --config config/sharding/shard-router.yaml --dataset oltp --rows 500000000 --workers 32",
		Args:    usage.Between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.rows.dataset != "" || len(args) == 0 {
				return a.loadRows(cmd, args, f)
			}
			if name := f.rows.given(cmd); name != "" {
				return usage.Wrong("--%s: only with --dataset", name)
			}
			if err := f.check(args[0]); err != nil {
				return err
			}
			if err := rereadable(args[0]); err != nil {
				return err
			}
			return a.withClient(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				src := &fileSource{path: args[0], keyField: f.keyField, collection: f.collection, stdin: a.in}
				return a.load(ctx, c, src, loadAnswer{File: args[0]}, f)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.collection, "collection", "", "the collection; default: the name of the file or the data set")
	fs.StringVar(&f.keyField, "key-field", "_key", "the field of each line that holds its key: text or a number")
	fs.StringVar(&f.run, "resume", "", "go on with the `RUN` that broke off")
	fs.StringVar(&f.concern, "write-concern", "", "ask for more than the shards' mode: immediate, quorum, all or local_quorum")
	fs.IntVar(&f.workers, "workers", 256, "documents under way at once")
	fs.BoolVar(&f.verify, "verify", false, "read back and compare")
	fs.BoolVar(&f.only, "verify-only", false, "write nothing, read back and compare")
	f.rows.register(fs)
	return cmd
}

var runName = regexp.MustCompile(`^[0-9a-f]{8}$`) // as load names them

func (f *loadFlags) check(path string) error {
	if f.workers < 1 || f.workers > 4096 {
		return usage.Wrong("--workers %d: want 1 to 4096", f.workers)
	}
	if f.run != "" && !runName.MatchString(f.run) {
		return usage.Wrong("--resume %q: not a run that load has named: want 8 digits of 0 to 9 and a to f, as it said when it broke off", f.run)
	}
	if (f.verify || f.only || f.run != "") && path == "-" {
		return usage.Wrong("--verify and --resume read the documents twice; stdin can be read once").Do("put them into a file, and load that")
	}
	if _, err := themis.ParseWriteConcern(f.concern); err != nil {
		return err
	}
	if f.collection == "" {
		f.collection = collectionOf(path)
	}
	return ofUser(f.collection, "themis-cli load "+path+" --collection COLLECTION")
}

// rereadable says that a file can't be read more than once, as a load does.
func rereadable(path string) error {
	if info, err := os.Stat(path); path != "-" && err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return themis.Errorf(themis.InvalidArgument, "%s is a pipe or a device, not a file: it can be read once only", path).Do("give its content on stdin: themis-cli load - --collection NAME < %s", path)
	}
	return readable(path)
}

// readable says before anybody is asked that a file is not there, or may not be read. A pipe is not opened: that can be done once only.
func readable(path string) error {
	if path == "-" {
		return nil
	}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", path)
	}
	if err == nil && info.Mode().IsRegular() {
		var f *os.File
		if f, err = os.Open(path); err == nil { //nolint:gosec // the user named it
			err = f.Close()
		}
	}
	if err != nil {
		return themis.Errorf(themis.InvalidArgument, "%w", err).Do("ls -l %s", listed(path, info))
	}
	return nil
}

// listed is what to list to see why a path is no file: itself where it is a directory.
func listed(path string, info os.FileInfo) string {
	if info != nil && info.IsDir() {
		return path
	}
	return filepath.Dir(path)
}

// collectionOf is the file's name without directory and endings: airports of testdata/airports.ndjson.
func collectionOf(path string) string {
	base, _, _ := strings.Cut(filepath.Base(path), ".")
	if themis.CheckCollection(base) != nil {
		return "documents"
	}
	return base
}

// load writes and verifies as the flags say, and prints out with what became of it.
func (a *app) load(ctx context.Context, c *client.Client, src source, out loadAnswer, f loadFlags) error {
	l := &loader{c: c, f: f, out: out}
	l.out.Collection, l.out.Run, l.out.Errors, l.out.Differences = f.collection, f.run, []lineFault{}, []lineFault{}
	if f.run == "" {
		l.out.Run = client.NewRequestID()[:8]
	}
	shown := a.progress(l.step)
	var err error
	rows, generated := src.(*rowSource)
	switch {
	case f.only:
	case generated:
		_, err = a.fill(ctx, l, rows)
	default:
		err = l.write(ctx, src)
	}
	if err == nil && (f.verify || f.only) {
		err = l.verify(ctx, src)
	}
	shown()
	if l.open > 0 {
		a.say("# it ended with %s under way, which may be stored or not", counted(int(l.open), "document"))
	}
	switch {
	case err != nil && l.out.Written > 0:
		a.answer(themis.ExitPartly)
	case err != nil:
	case l.out.Different != nil && *l.out.Different > 0, l.out.Failed > 0 && l.out.Written == 0:
		a.answer(themis.ExitFailed)
	case l.out.Failed > 0:
		a.answer(themis.ExitPartly)
	}
	switch {
	case err == nil || f.only || l.out.Lines == 0:
	case out.Dataset != "":
		a.say("# to go on, repeat the command")
	case out.File != "-":
		a.say("# to go on: themis-cli load %s --collection %s --key-field %s --resume %s%s", out.File, f.collection, f.keyField, l.out.Run, a.flags.where())
	}
	return errors.Join(err, a.print(l.out, func(w io.Writer, _ bool) { loadText(w, l.out) }))
}

func loadText(w io.Writer, out loadAnswer) {
	unit := "line"
	if out.Dataset != "" {
		unit = "row"
	}
	if out.Present != nil && *out.Present > 0 {
		_, _ = fmt.Fprintf(w, "%d rows were there already\n", *out.Present)
	}
	if out.Verified == nil && out.Lines == 0 && out.Dataset == "" {
		_, _ = fmt.Fprintf(w, "%s has no documents; nothing was written to %s\n", out.File, out.Collection)
	} else if out.Lines > 0 {
		_, _ = fmt.Fprintf(w, "%d of %d documents written to %s (%s) in %s: %.0f a second\n", out.Written, out.Lines, out.Collection, humanBytes(out.Bytes),
			(time.Duration(out.Duration) * time.Millisecond).Round(time.Millisecond), out.Rate)
	}
	if out.Overtaken > 0 {
		_, _ = fmt.Fprintf(w, "%s left out: the same key comes again further down\n", counted(int(out.Overtaken), "line"))
	}
	for _, e := range out.Errors {
		_, _ = fmt.Fprintf(w, "%s %d: %s\n", unit, e.Line, e.Detail)
	}
	if more := out.Failed - int64(len(out.Errors)); more > 0 {
		_, _ = fmt.Fprintf(w, "… and %d more\n", more)
	}
	if out.Verified == nil {
		return
	}
	_, _ = fmt.Fprintf(w, "%d documents read back and equal, %d different\n", *out.Verified, *out.Different)
	for _, e := range out.Differences {
		_, _ = fmt.Fprintf(w, "%s %d: %s: %s\n", unit, e.Line, shown(e.Key), e.Detail)
	}
}
