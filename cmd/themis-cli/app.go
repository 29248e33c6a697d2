package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/tui"
)

// app is what every command has: its streams, its environment, and the flags that all share.
type app struct {
	in          io.Reader
	out, errOut io.Writer
	env         map[string]string // THEMIS_*
	flags       globals

	began bool // a command runs: errors are no longer about usage
	code  int  // the exit code that an answer asks for
}

func newApp(in io.Reader, out, errOut io.Writer, env map[string]string) *app {
	return &app{in: in, out: out, errOut: errOut, env: env}
}

// globals are the flags of every command. A THEMIS_* variable stands for one that isn't given.
type globals struct {
	playground string
	context    string
	endpoints  []string
	ca         string
	cert       string
	key        string
	output     string
	timeout    time.Duration
	quiet      bool
	noColor    bool

	set *pflag.FlagSet
	env map[string]string
}

var formats = []string{"table", "wide", "json", "yaml", "ndjson"}

func (g *globals) register(fs *pflag.FlagSet, env map[string]string) {
	g.set, g.env = fs, env
	fs.StringVar(&g.playground, "playground", "", "the cluster of the playground in `DIR` ($THEMIS_PLAYGROUND)")
	fs.StringVar(&g.context, "context", "", "the cluster that the context `NAME` describes ($THEMIS_CONTEXT)")
	fs.StringSliceVar(&g.endpoints, "endpoint", nil, "gRPC addresses `HOST:PORT` of nodes, separated by commas; one that lives is enough ($THEMIS_ENDPOINT)")
	fs.StringVar(&g.ca, "cacert", "", "`FILE` with the cluster's CA ($THEMIS_CACERT)")
	fs.StringVar(&g.cert, "cert", "", "`FILE` with the certificate to show ($THEMIS_CERT)")
	fs.StringVar(&g.key, "key", "", "`FILE` with its private key, mode 0600 ($THEMIS_KEY)")
	fs.StringVarP(&g.output, "output", "o", "table", "the `FORMAT` of the answer: table, wide, json, yaml; ndjson where it streams ($THEMIS_OUTPUT)")
	fs.BoolVarP(&g.quiet, "quiet", "q", false, "say nothing on stderr but errors ($THEMIS_QUIET)")
	fs.BoolVar(&g.noColor, "no-color", false, "no colour on terminals ($NO_COLOR)")
	fs.DurationVar(&g.timeout, "timeout", 0, "give up after this `TIME`, such as 5s; 0: the command's own ($THEMIS_TIMEOUT)")
}

// check reads the variables that stand for flags, and says what can't be.
func (g *globals) check() error {
	if o := g.env["THEMIS_OUTPUT"]; o != "" && !g.set.Changed("output") {
		g.output = o
	}
	if q := g.env["THEMIS_QUIET"]; q != "" && !g.set.Changed("quiet") {
		on, err := strconv.ParseBool(q)
		if err != nil {
			return usage.Wrong("THEMIS_QUIET %q: want true or false", q)
		}
		g.quiet = on
	}
	if t := g.env["THEMIS_TIMEOUT"]; t != "" && !g.set.Changed("timeout") {
		d, err := time.ParseDuration(t)
		if err != nil {
			return usage.Wrong("THEMIS_TIMEOUT %q: want a time such as 5s", t)
		}
		g.timeout = d
	}
	if g.timeout < 0 {
		return usage.Wrong("--timeout %s: want 0 or more", g.timeout)
	}
	for _, f := range formats {
		if g.output == f {
			return nil
		}
	}
	bad := g.output
	g.output = "table"
	return usage.Wrong("--output %q: want one of %s", bad, strings.Join(formats, ", "))
}

// named answers whether flags name a cluster.
func (g *globals) named() bool { return g.playground != "" || g.context != "" || len(g.endpoints) > 0 }

// where are the flags that name the cluster, as they are typed again.
func (g *globals) where() string {
	var b strings.Builder
	for _, f := range []struct{ name, value string }{
		{"playground", g.playground}, {"context", g.context}, {"endpoint", strings.Join(g.endpoints, ",")}, {"cacert", g.ca}, {"cert", g.cert}, {"key", g.key},
	} {
		if f.value != "" {
			b.WriteString(" --" + f.name + " " + f.value)
		}
	}
	return b.String()
}

// wish is what the flags say about which cluster is meant.
func (a *app) wish() client.Wish {
	g := a.flags
	return client.Wish{Playground: g.playground, Context: g.context, Endpoints: g.endpoints, CA: g.ca, Cert: g.cert, Key: g.key}
}

// target finds out which cluster is meant, and as whom to go there.
func (a *app) target() (client.Context, error) {
	g := a.flags
	for _, f := range []struct{ flag, path string }{{"cacert", g.ca}, {"cert", g.cert}, {"key", g.key}} {
		if f.path == "" {
			continue
		}
		if err := readable(f.path); err != nil {
			return client.Context{}, fmt.Errorf("--%s: %w", f.flag, err)
		}
	}
	return a.wish().Find(a.env)
}

// connect finds a node of the cluster that is meant. The caller closes the client.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	t, err := a.target()
	if err != nil {
		return nil, err
	}
	return a.dial(ctx, t)
}

func (a *app) dial(ctx context.Context, t client.Context) (*client.Client, error) {
	return client.New(ctx, client.Options{Endpoints: t.Endpoints, Files: t.Files(), Timeout: a.flags.timeout})
}

// limited gives ctx the time that --timeout names, or the command's own.
func (a *app) limited(ctx context.Context, own time.Duration) (context.Context, context.CancelFunc) {
	if a.flags.timeout > 0 {
		own = a.flags.timeout
	}
	if own <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, own)
}

// withClient connects, does, and closes.
func (a *app) withClient(ctx context.Context, own time.Duration, do func(context.Context, *client.Client) error) (err error) {
	ctx, cancel := a.limited(ctx, own)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return do(ctx, c)
}

// style is how pictures are drawn on stdout.
func (a *app) style() (s tui.Style, width int) {
	f, ok := a.out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor
		return s, 0
	}
	s.Unicode = unicodeLocale()
	s.Color = !a.flags.noColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if columns, _, err := term.GetSize(int(f.Fd())); err == nil { //nolint:gosec // a file descriptor
		width = columns
	}
	return s, width
}

func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor
}

// unicodeLocale answers whether the terminal's language is written in UTF-8: the first of the three that is set counts.
func unicodeLocale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(os.Getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// say tells the user something that is not the answer.
func (a *app) say(format string, args ...any) {
	if !a.flags.quiet {
		_, _ = fmt.Fprintf(a.errOut, format+"\n", args...)
	}
}

// answer sets the exit code of an answer that is bad without being an error.
func (a *app) answer(code int) { a.code = code }

// notFound is the error for a thing that the report doesn't have.
func notFound(what, id, list string) error {
	return themis.Errorf(themis.NotFound, "no %s %q in this cluster", what, id).Do("%s", list)
}
