package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/themis"
)

// app is what every command has: its streams, its environment, and the flags that all share.
type app struct {
	out, errOut io.Writer
	env         map[string]string // THEMIS_*
	now         func() time.Time

	playground, context string
	endpoints           []string
	ca, cert, key       string
	output              string
	timeout             time.Duration

	began bool // a command runs: errors are no longer about usage
	code  int  // the exit code that an answer asks for
}

var formats = []string{"table", "json"}

// run is the whole program. It ends soon after ctx does, or a signal comes.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the next one ends whatever waits all the same
	a := &app{out: out, errOut: errOut, env: config.Environ(os.Environ()), now: time.Now}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return a.code
	case a.began && ctx.Err() != nil:
		a.complain(cmd, themis.Errorf(themis.Deadline, "interrupted: %w", err))
		return themis.ExitInterrupted
	case !a.began:
		err = usage.Of(cmd, err)
		if usage.WantsJSON(args, a.env["THEMIS_OUTPUT"]) {
			a.output = "json"
		}
	}
	a.complain(cmd, err)
	if a.code != themis.ExitOK {
		return a.code // an answer that could not be written
	}
	return themis.Exit(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "themisdb-repl-doctor",
		Short: "Say what is wrong with a ThemisDB cluster, and why",
		Long: `themisdb-repl-doctor examines a ThemisDB cluster and the files of its nodes, and changes nothing.

The cluster is the one that --playground, --context or --endpoint names; else $THEMIS_ENDPOINT, $THEMIS_PLAYGROUND or
$THEMIS_CONTEXT; else the current context; else the playground in the user's cache directory.`,
		SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := usage.NotEmpty(cmd); err != nil {
				return err
			}
			if err := a.check(); err != nil {
				return err
			}
			a.began = true
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return usage.Unknown(cmd, args) },
	}
	a.register(root.PersistentFlags())
	root.SetFlagErrorFunc(usage.Flag)
	root.AddCommand(a.checkCommand(), a.validateCommand(), a.lossesCommand(), a.versionCommand())
	for _, v := range unserved {
		root.AddCommand(a.unservedCommand(v))
	}
	usage.Defaults(root)
	return root
}

func (a *app) register(fs *pflag.FlagSet) {
	fs.StringVar(&a.playground, "playground", "", "the cluster of the playground in `DIR` ($THEMIS_PLAYGROUND)")
	fs.StringVar(&a.context, "context", "", "the cluster that the context `NAME` describes ($THEMIS_CONTEXT)")
	fs.StringSliceVar(&a.endpoints, "endpoint", nil, "gRPC addresses `HOST:PORT,…` of nodes; one that lives is enough ($THEMIS_ENDPOINT)")
	fs.StringVar(&a.ca, "cacert", "", "`FILE` with the cluster's CA ($THEMIS_CACERT)")
	fs.StringVar(&a.cert, "cert", "", "`FILE` with the certificate to show ($THEMIS_CERT)")
	fs.StringVar(&a.key, "key", "", "`FILE` with its private key, mode 0600 ($THEMIS_KEY)")
	fs.StringVarP(&a.output, "output", "o", "", "how the answer is written: table or json; default table ($THEMIS_OUTPUT)")
	fs.DurationVar(&a.timeout, "timeout", 0, "give up after this `TIME`, such as 30s; 0: each node has 5s to answer ($THEMIS_TIMEOUT)")
}

// check reads the variables that stand for flags, and says what can't be.
func (a *app) check() error {
	if a.output == "" {
		a.output = a.env["THEMIS_OUTPUT"]
	}
	if a.output == "" {
		a.output = "table"
	}
	if !slices.Contains(formats, a.output) {
		bad := a.output
		a.output = "table"
		return usage.Wrong("--output %q: want one of %s", bad, strings.Join(formats, ", "))
	}
	if t := a.env["THEMIS_TIMEOUT"]; t != "" && a.timeout == 0 {
		d, err := time.ParseDuration(t)
		if err != nil {
			return usage.Wrong("THEMIS_TIMEOUT %q: want a time such as 30s", t)
		}
		a.timeout = d
	}
	if a.timeout < 0 {
		return usage.Wrong("--timeout %s: want 0 or more", a.timeout)
	}
	return nil
}

func (a *app) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.timeout > 0 {
		return context.WithTimeout(ctx, a.timeout)
	}
	return context.WithCancel(ctx)
}

// print writes an answer in the form that was asked for; table draws it for people.
func (a *app) print(v any, table func(w io.Writer)) error {
	var b bytes.Buffer
	if a.output == "json" {
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(v); err != nil {
			return themis.Errorf(themis.Internal, "encode the answer: %w", err)
		}
	} else {
		table(&b)
	}
	if _, err := a.out.Write(b.Bytes()); err != nil {
		a.code = max(a.code, themis.ExitFailed)
		return usage.Unwritten(err)
	}
	return nil
}

// complain writes an error to stderr.
func (a *app) complain(cmd *cobra.Command, err error) {
	usage.Complain(a.errOut, cmd, err, a.output == "json")
}

// verb is a command that this version does not serve.
type verb struct{ name, does, instead string }

var unserved = []verb{
	{"repair", "Find where a copy differs from its primary, and repair that", "themisdb-repl-doctor check; a damaged copy is rebuilt by its own node when it starts"},
	{"analyze-lag", "Tell the course of replication lag and its probable cause", "themis-cli top, or themis-cli shard show SHARD"},
	{"report", "Collect everything for a look from outside", "themisdb-repl-doctor check -o json"},
}

// unservedCommand takes any flags: what is wrong is not how it was called.
func (a *app) unservedCommand(v verb) *cobra.Command {
	return &cobra.Command{
		Use: v.name, Short: v.does + " (not served by this version)", DisableFlagParsing: true, Annotations: map[string]string{"unserved": v.instead},
		RunE: func(_ *cobra.Command, args []string) error {
			if slices.Contains(args, "json") || slices.Contains(args, "-o=json") || slices.Contains(args, "--output=json") {
				a.output = "json"
			}
			return themis.Errorf(themis.Unimplemented, "%s is not served by this version; nothing was looked at and nothing changed", v.name).Do("%s", v.instead)
		},
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this binary", Args: usage.None,
		RunE: func(*cobra.Command, []string) error {
			answer := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{version(), runtime.Version()}
			return a.print(answer, func(w io.Writer) { _, _ = fmt.Fprintf(w, "themisdb-repl-doctor %s, %s\n", answer.Version, answer.Go) })
		},
	}
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v += " " + s.Value[:12]
		}
	}
	return v
}

// target finds out which cluster is meant, and as whom to go there. cluster is what --cluster says: without any other word of
// where, it may name a context, or be the cluster of one.
func (a *app) target(cluster string) (client.Context, error) {
	return client.Wish{Playground: a.playground, Context: a.context, Endpoints: a.endpoints, CA: a.ca, Cert: a.cert, Key: a.key, Cluster: cluster}.Find(a.env)
}

// dataDirs are the directories whose files are meant.
func (a *app) dataDirs(given []string) ([]string, error) {
	switch {
	case len(given) > 0:
		return given, nil
	case a.playground != "":
		return []string{a.playground}, nil
	case a.context != "" || len(a.endpoints) > 0:
		return nil, usage.Wrong("a node's files are read on its own machine: no node sends them").Do("on that machine: themisdb-repl-doctor validate-wal --data-dir DIR")
	case a.env["THEMIS_DATA_DIR"] != "":
		return []string{a.env["THEMIS_DATA_DIR"]}, nil
	}
	if dir, err := (client.Wish{}).PlaygroundDir(a.env); err != nil || dir != "" { // that the current context names, as for check
		return []string{dir}, err
	}
	return nil, usage.Wrong("--data-dir: none is given, and there is no playground").Do("themisdb-repl-doctor validate-wal --data-dir DIR")
}

// shardOf reads --shard.
func shardOf(s string) (themis.ShardID, error) {
	if s == "" {
		return "", nil
	}
	id, err := themis.ParseShardID(s)
	if err != nil {
		return "", fmt.Errorf("--shard: %w", err)
	}
	return id, nil
}
