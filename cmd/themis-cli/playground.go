package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/testdata"
)

// playgroundFlags are those of `playground`.
type playgroundFlags struct {
	dir         string
	options     playground.Options
	mode        string
	replication string
	syncShards  []string
	detach      bool
	load        string
	noLoad      bool
}

// founding are the flags that say what a new playground is.
var founding = []string{"nodes", "spares", "shards", "replication-factor", "min-sync-replicas", "control-nodes", "mode", "replication", "sync-shards"}

func playgroundCommand(a *app) *cobra.Command {
	f := playgroundFlags{options: playground.Default()}
	cmd := &cobra.Command{
		Use: "playground", Short: "Run a real cluster on this machine, to try things",
		Long: `playground starts a real cluster on this machine: a process for each node, with a CA and certificates of its own, on loopback ports
between 20000 and 32000, all below one directory. It loads documents, prints the health and four things to try, and stays: it shows
every event, and Ctrl-C stops the cluster. With --detach it leaves the cluster running. On the directory of a stopped playground it
starts that one again, with all its data.

HTTP without TLS is allowed on loopback in a playground, and nowhere else: every user of this machine can read and write its documents.`,
		Example: "  themis-cli playground\n  themis-cli playground --nodes 5 --replication-factor 3 --data-dir ./five --detach\n  themis-cli playground node kill node-2",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage.Unknown(cmd, args)
			}
			return a.playground(cmd, f)
		},
	}
	cmd.PersistentFlags().StringVar(&f.dir, "data-dir", "", "`DIR` of the playground; default: that of --playground, for the verbs that of the current context, else themis/playground in the user's cache")
	fs, o := cmd.Flags(), &f.options
	fs.IntVar(&o.Nodes, "nodes", o.Nodes, "nodes that store documents")
	fs.IntVar(&o.Spares, "spares", o.Spares, "hot spares on top of them")
	fs.IntVar(&o.Shards, "shards", o.Shards, "number of shards")
	fs.IntVar(&o.RF, "replication-factor", o.RF, "copies of each shard, with the primary")
	fs.IntVar(&o.K, "min-sync-replicas", o.K, "followers that must have a write before it is acknowledged")
	fs.IntVar(&o.ControlNodes, "control-nodes", 0, "members of the control plane: 1, 3 or 5; default: 3 where there are 3 nodes, else 1")
	fs.StringVar(&f.mode, "mode", o.Redundancy, "MIRROR, or NONE for one copy")
	fs.StringVar(&f.replication, "replication", string(o.Replication), "sync, semi_sync, async, or hybrid with --sync-shards")
	fs.StringSliceVar(&f.syncShards, "sync-shards", nil, "under hybrid: the shards that are sync; the others are async")
	fs.BoolVar(&f.detach, "detach", false, "leave the cluster running and return")
	fs.StringVar(&f.load, "load", "", "load this `FILE.ndjson`, a document a line with its key in _key, into the collection of its name; default: the airports")
	fs.BoolVar(&f.noLoad, "no-load", false, "load nothing")
	cmd.AddCommand(playgroundStatus(a, &f), playgroundStop(a, &f), playgroundStart(a, &f), playgroundList(a), playgroundNode(a, &f))
	return cmd
}

// complete reads what is not read as it stands.
func (f *playgroundFlags) complete() (err error) {
	f.options.Redundancy = strings.ToUpper(f.mode)
	if f.options.Replication, err = themis.ParseMode(f.replication); err != nil {
		return fmt.Errorf("--replication: %w", err)
	}
	for _, s := range f.syncShards {
		id, err := themis.ParseShardID(s)
		if err != nil {
			return fmt.Errorf("--sync-shards: %w", err)
		}
		f.options.SyncShards = append(f.options.SyncShards, id)
	}
	if f.load != "" && f.noLoad {
		return usage.Wrong("--load and --no-load contradict each other")
	}
	return f.options.Validate()
}

// playgroundDir is the directory of the playground that is to be made, or started again.
func (a *app) playgroundDir(flag string) (string, error) {
	for _, dir := range []string{flag, a.flags.playground, a.env["THEMIS_PLAYGROUND"]} {
		if dir != "" {
			return dir, nil
		}
	}
	return client.DefaultPlayground()
}

// verbDir is the directory of the playground that a verb acts on: the one that is named, else that of the current context, else the
// default one.
func verbDir(w client.Wish, env map[string]string) (string, error) {
	if dir, err := w.PlaygroundDir(env); err != nil || dir != "" {
		return dir, err
	}
	return client.DefaultPlayground()
}

// host is this program, as a playground needs it. Steps are told on stderr.
func (a *app) host() playground.Host {
	h := playground.Host{Step: func(what string, took time.Duration) { a.say("%7.2f s  %s", took.Seconds(), what) }}
	if cache, err := os.UserCacheDir(); err == nil {
		h.Registry = filepath.Join(cache, "themis", "playgrounds")
	}
	if contexts, err := client.UserContexts(); err == nil {
		h.Contexts = &contexts
	}
	return h
}

// openPlayground finds the finished playground that is meant; openAny also finds one whose founding broke off.
func (a *app) openPlayground(flag string) (*playground.Playground, error) {
	return a.openBy(flag, playground.Open)
}

func (a *app) openAny(flag string) (*playground.Playground, error) {
	return a.openBy(flag, playground.OpenAny)
}

func (a *app) openBy(flag string, open func(string, playground.Host) (*playground.Playground, error)) (*playground.Playground, error) {
	w := a.wish()
	if flag != "" {
		w.Playground = flag
	}
	dir, err := verbDir(w, a.env)
	if err != nil {
		return nil, err
	}
	return open(dir, a.host())
}

// documents are what a playground is filled with.
type documents struct {
	playground.Source
	from io.ReadCloser
}

// source is what the flags say to load; nil: nothing.
func (f *playgroundFlags) source(fresh bool) (*playground.Source, error) {
	switch {
	case f.load != "":
		base := filepath.Base(f.load)
		collection := strings.TrimSuffix(base, filepath.Ext(base))
		if err := themis.CheckCollection(collection); err != nil {
			return nil, usage.Wrong("--load %s: the file's name is to be the collection's: %v", f.load, err).Do("rename or link the file")
		}
		path, err := filepath.Abs(f.load)
		return &playground.Source{Collection: collection, File: path}, err
	case f.noLoad || !fresh:
		return nil, nil
	}
	return &playground.Source{Collection: "airports"}, nil
}

func openDocuments(ctx context.Context, s playground.Source) (*documents, error) {
	if s.File == "" {
		return &documents{s, io.NopCloser(strings.NewReader(testdata.Airports))}, nil
	}
	file, err := openFile(ctx, s.File)
	if err != nil {
		return nil, fmt.Errorf("--load: %w", err)
	}
	return &documents{s, file}, nil
}

// unloaded are the documents of a load that did not come to its end; nil: there was none, or its file can't be read again, which is said.
func (a *app) unloaded(ctx context.Context, p *playground.Playground) (*documents, error) {
	info, err := p.Info()
	if err != nil || info.Unloaded == nil {
		return nil, err
	}
	from := *info.Unloaded
	if from.File != "" {
		err = rereadable(from.File)
	}
	if err != nil {
		a.say("%s was not loaded to its end, and can't be now: %v\n  next: themis-cli playground --data-dir %s --detach --load FILE", from.Collection, err, info.Dir)
		return nil, nil
	}
	a.say("%s was not loaded to its end: once more", from.Collection)
	return openDocuments(ctx, from)
}

// playground founds a playground, or starts the one that is there, and stays unless it is told not to.
func (a *app) playground(cmd *cobra.Command, f playgroundFlags) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP) // a terminal that closes is a Ctrl-C
	defer stop()
	if err := f.complete(); err != nil {
		return err
	}
	dir, err := a.playgroundDir(f.dir)
	if err != nil {
		return err
	}
	fresh := !playground.Exists(dir)
	var docs *documents // opened before anything is started
	from, err := f.source(fresh)
	if err == nil && from != nil {
		docs, err = openDocuments(ctx, *from)
	}
	if err != nil {
		return err
	}
	var p *playground.Playground
	ours := true // it was this command that made it run
	if fresh {
		a.say("making a playground in %s", dir)
		o := f.options
		o.Load = from
		if p, err = playground.Found(ctx, dir, o, a.host()); err != nil && ctx.Err() != nil {
			a.say("\n%v", err)
		}
		if themis.CodeOf(err) == themis.RefusedUnsafe && playground.Exists(dir) { // another command was faster
			fresh = false
			if f.load == "" {
				docs = nil // those are its to load
			}
		}
	}
	if !fresh {
		p, ours, err = a.restart(ctx, cmd, dir, f.options)
	}
	stays := ours && !f.detach
	if err != nil && ctx.Err() != nil && stays && p != nil { // interrupted on the way up
		return errors.Join(err, a.halt(ctx, p))
	}
	if err != nil {
		return err
	}
	if docs == nil && !f.noLoad {
		if docs, err = a.unloaded(ctx, p); err != nil {
			return err
		}
	}
	tell := func() error { return a.welcome(ctx, p, docs) }
	if !stays {
		return tell()
	}
	return a.stay(ctx, p, tell)
}

// restart starts the playground that is there, unless the flags ask for another one. ours is false if it ran already.
func (a *app) restart(ctx context.Context, cmd *cobra.Command, dir string, o playground.Options) (p *playground.Playground, ours bool, err error) {
	if p, err = playground.Open(dir, a.host()); err != nil {
		return nil, false, err
	}
	info, err := p.Info()
	if err != nil {
		return nil, false, err
	}
	asked := slices.ContainsFunc(founding, func(name string) bool { return cmd.Flags().Changed(name) })
	if asked && fmt.Sprintf("%+v", o) != fmt.Sprintf("%+v", info.Options) {
		return nil, false, usage.Wrong("there is a playground in %s already, and it was made with other settings: %s", p.Dir, describe(info.Options)).
			Do("themis-cli playground start --data-dir %s, or choose another --data-dir", p.Dir)
	}
	a.say("the playground in %s", p.Dir)
	woken, err := p.Start(ctx)
	if err == nil && len(woken) == 0 {
		a.say("runs already; this command only looks at it")
	}
	return p, len(woken) == len(info.Nodes), err
}

func describe(o playground.Options) string {
	text := fmt.Sprintf("%s, %s, %s of each, %s", several(o.Nodes, "node"), several(o.Shards, "shard"), copies(o.RF), o.Replication)
	if o.Spares > 0 {
		text += ", " + several(o.Spares, "spare")
	}
	return text
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func copies(n int) string {
	if n == 1 {
		return "1 copy"
	}
	return fmt.Sprintf("%d copies", n)
}

// playgroundAnswer is the JSON of `playground` and of `playground status`.
type playgroundAnswer struct {
	Status string `json:"status"` // of the report; STOPPED: no process; UNKNOWN: none answers
	playground.Info
	Loaded *playground.Loaded `json:"loaded,omitempty"`
	Health *health.Report     `json:"health"` // null: STOPPED or UNKNOWN
}

// look asks for everything about the playground.
func (a *app) look(ctx context.Context, p *playground.Playground) (playgroundAnswer, error) {
	info, err := p.Info()
	if err != nil {
		return playgroundAnswer{}, err
	}
	out := playgroundAnswer{Status: "STOPPED", Info: info}
	if info.Running == 0 {
		return out, nil
	}
	ctx, cancel := a.limited(ctx, requestTime)
	defer cancel()
	c, err := p.Client(ctx)
	if err == nil {
		var r health.Report
		if r, err = c.Report(ctx); err == nil {
			out.Status, out.Health = string(r.Status), &r
		}
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		out.Status = "UNKNOWN"
		if !errors.Is(err, context.Canceled) {
			a.say("no node answers: %v", err)
		}
	}
	return out, nil
}

// loadInto loads the documents and says what became of them.
func (a *app) loadInto(ctx context.Context, p *playground.Playground, docs *documents) (*playground.Loaded, error) {
	if docs == nil {
		return nil, nil
	}
	defer docs.from.Close() //nolint:errcheck // only read from
	l, err := p.Load(ctx, docs.Source, docs.from)
	if err != nil {
		return nil, err
	}
	a.say("%7.2f s  %d documents loaded into %s", l.Took.Seconds(), l.Written, l.Collection)
	for _, e := range l.Errors[:min(len(l.Errors), 5)] {
		a.say("           line %d not written: %s: %s", e.Line, e.Code, e.Detail)
	}
	if l.Failed > 0 {
		a.say("           %d lines were not written", l.Failed)
		a.answer(themis.ExitPartly)
	}
	return &l, nil
}

// welcome loads the documents and prints what there is and what to try.
func (a *app) welcome(ctx context.Context, p *playground.Playground, docs *documents) error {
	loaded, err := a.loadInto(ctx, p, docs)
	if err != nil {
		return err
	}
	out, err := a.look(ctx, p)
	if err == nil {
		err = ctx.Err() // interrupted: nobody waits for the picture
	}
	if err != nil {
		return err
	}
	out.Loaded = loaded
	return a.print(out, func(w io.Writer, _ bool) {
		drawPlayground(w, out)
		_, _ = fmt.Fprintln(w, "\nHTTP answers without TLS on loopback (http.plain_loopback: full): every user of this machine can read and write here.")
		tryThis(w, out, a.typing(p, out.Context))
	})
}

// drawPlayground is the table of `playground status`.
func drawPlayground(w io.Writer, out playgroundAnswer) {
	now := out.Options
	now.Nodes = len(out.Nodes) - now.Spares // some may have been added
	_, _ = fmt.Fprintf(w, "%s: %s\n", out.Status, describe(now))
	pairs(w, "directory", out.Dir, "context", dash(out.Context))
	if out.Unloaded != nil {
		pairs(w, "not loaded", out.Unloaded.Collection+", or not to its end; themis-cli playground start --data-dir "+out.Dir+" loads it")
	}
	rows := [][]string{}
	for _, n := range out.Nodes {
		leads := "-"
		if out.Health != nil {
			for _, r := range out.Health.Nodes {
				if r.ID == n.ID {
					leads = fmt.Sprint(r.Primaries)
				}
			}
		}
		rows = append(rows, []string{string(n.ID), string(n.Process), number(n.Pid), leads, n.GRPC, "http://" + n.HTTP, n.Log})
	}
	columns(w, "NODE PROCESS PID LEADS GRPC HTTP LOG", rows)
	if out.Health == nil {
		return
	}
	for _, f := range out.Health.Findings {
		if f.Severity != health.Info {
			_, _ = fmt.Fprintf(w, "%s %s: %s\n", f.Code, f.Subject, f.Why)
		}
	}
}

// tryThis is four things to try, to be typed as they stand.
func tryThis(w io.Writer, out playgroundAnswer, c typing) {
	victim := out.Nodes[len(out.Nodes)-1].ID
	if out.Health != nil && len(out.Health.Shards) > 0 && out.Health.Shards[0].Primary != "" {
		victim = out.Health.Shards[0].Primary
	}
	read := c.cluster("doc get notes hello")
	if out.Loaded != nil && out.Loaded.Collection == "airports" {
		read = c.cluster("doc get airports EDDF")
	}
	_, _ = fmt.Fprintf(w, `
Four things to try:
  1. put a document and read one, through any node
       %s
       %s
       curl -s http://%s/api/v1/collections/notes/documents/hello
  2. kill the node that leads shard-1, as a crash would, and bring it back
       %s
       %s
  3. watch what the cluster does about it
       %s
  4. stop it all, and start it again with all its data
       %s
       %s
`, c.cluster(`doc put notes hello '{"text":"hi"}'`), read, out.Nodes[0].HTTP, c.playground("node kill "+string(victim)), c.playground("node start "+string(victim)),
		c.cluster("cluster health"), c.playground("stop"), c.playground("start"))
}

// stay shows events until it is interrupted, then stops the cluster. tell comes first; a failure of it stops the cluster too.
func (a *app) stay(ctx context.Context, p *playground.Playground, tell func() error) error {
	err := tell()
	if err == nil {
		a.say("\nIt runs until you press Ctrl-C. Events:")
		err = p.Follow(ctx, a.showChange)
	}
	if err == nil && ctx.Err() == nil {
		a.say("all processes have ended. To start them again: %s", a.typing(p, "").playground("start"))
		return nil
	}
	stopErr := a.halt(ctx, p)
	if ctx.Err() != nil {
		err = nil // interrupted, as it was meant
	}
	return errors.Join(err, stopErr)
}

// halt stops the cluster; a second Ctrl-C kills it.
func (a *app) halt(ctx context.Context, p *playground.Playground) error {
	hurry, stop := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a.say("\nstopping; Ctrl-C again kills it")
	_, err := p.Stop(hurry)
	if err == nil {
		a.say("stopped. To start it again, with all its data: %s", a.typing(p, "").playground("start"))
	}
	return err
}
