package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

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

	set *pflag.FlagSet
	env map[string]string
}

var formats = []string{"table", "wide", "json", "yaml", "ndjson"}

func (g *globals) register(fs *pflag.FlagSet, env map[string]string) {
	g.set, g.env = fs, env
	fs.StringVar(&g.playground, "playground", "", "the cluster of the playground in `DIR` ($THEMIS_PLAYGROUND)")
	fs.StringVar(&g.context, "context", "", "the cluster that the context `NAME` describes ($THEMIS_CONTEXT)")
	fs.StringSliceVar(&g.endpoints, "endpoint", nil, "gRPC addresses `HOST:PORT,…` of nodes; one that lives is enough ($THEMIS_ENDPOINT)")
	fs.StringVar(&g.ca, "cacert", "", "`FILE` with the cluster's CA ($THEMIS_CACERT)")
	fs.StringVar(&g.cert, "cert", "", "`FILE` with the certificate to show ($THEMIS_CERT)")
	fs.StringVar(&g.key, "key", "", "`FILE` with its private key, mode 0600 ($THEMIS_KEY)")
	fs.StringVarP(&g.output, "output", "o", "table", "how the answer is written: table, wide, json, yaml; ndjson where it streams ($THEMIS_OUTPUT)")
	fs.DurationVar(&g.timeout, "timeout", 0, "give up after this `TIME`, such as 5s; 0: the command's own ($THEMIS_TIMEOUT)")
}

// check reads the variables that stand for flags, and says what can't be.
func (g *globals) check() error {
	if o := g.env["THEMIS_OUTPUT"]; o != "" && !g.set.Changed("output") {
		g.output = o
	}
	if t := g.env["THEMIS_TIMEOUT"]; t != "" && !g.set.Changed("timeout") {
		d, err := time.ParseDuration(t)
		if err != nil {
			return wrong("THEMIS_TIMEOUT %q: want a time such as 5s", t)
		}
		g.timeout = d
	}
	if g.timeout < 0 {
		return wrong("--timeout %s: want 0 or more", g.timeout)
	}
	for _, f := range formats {
		if g.output == f {
			return nil
		}
	}
	bad := g.output
	g.output = "table"
	return wrong("--output %q: want one of %s", bad, strings.Join(formats, ", "))
}

// target finds out which cluster is meant, and as whom to go there.
func (a *app) target() (client.Context, error) {
	g := a.flags
	if g.playground != "" && g.context != "" {
		return client.Context{}, wrong("--playground and --context name two clusters: give one of them")
	}
	c, err := a.named()
	if err != nil {
		return c, err
	}
	if len(g.endpoints) > 0 {
		c.Endpoints = g.endpoints
	}
	for _, f := range []struct {
		flag, env string
		to        *string
	}{{g.ca, "THEMIS_CACERT", &c.CA}, {g.cert, "THEMIS_CERT", &c.Cert}, {g.key, "THEMIS_KEY", &c.Key}} {
		switch {
		case f.flag != "":
			*f.to = f.flag
		case a.env[f.env] != "":
			*f.to = a.env[f.env]
		}
	}
	if len(c.Endpoints) == 0 {
		return c, wrong("no cluster is named, there is no current context, and no playground").
			Do("themis-cli playground, or --endpoint HOST:50051 --cacert FILE --cert FILE --key FILE")
	}
	if c.CA == "" || c.Cert == "" || c.Key == "" {
		return c, wrong("--cacert, --cert and --key (or $THEMIS_CACERT, $THEMIS_CERT and $THEMIS_KEY) are needed to talk to %s", strings.Join(c.Endpoints, ",")).
			Do("themis-cli pki issue --client %s --capabilities read,write,admin", orUser())
	}
	for i, e := range c.Endpoints {
		c.Endpoints[i] = withPort(e)
	}
	return c, nil
}

func orUser() string {
	if u := os.Getenv("USER"); u != "" {
		return u
	}
	return "operator"
}

const defaultPort = "50051"

// withPort gives an address without a port the default one.
func withPort(addr string) string {
	addr = strings.TrimSpace(addr)
	if addr == "" || strings.HasSuffix(addr, "]") || !strings.Contains(addr, ":") {
		return addr + ":" + defaultPort
	}
	return addr
}

// named is the context that flags, variables or habit name; an empty one where only --endpoint counts.
func (a *app) named() (client.Context, error) {
	g := a.flags
	switch {
	case g.playground != "":
		return playgroundContext(g.playground)
	case g.context != "":
		return savedContext(g.context)
	case len(g.endpoints) > 0:
		return client.Context{}, nil
	case a.env["THEMIS_ENDPOINT"] != "":
		return client.Context{Endpoints: strings.Split(a.env["THEMIS_ENDPOINT"], ",")}, nil
	case a.env["THEMIS_PLAYGROUND"] != "":
		return playgroundContext(a.env["THEMIS_PLAYGROUND"])
	case a.env["THEMIS_CONTEXT"] != "":
		return savedContext(a.env["THEMIS_CONTEXT"])
	}
	return habit()
}

// habit is the current context, or the playground in the user's cache; empty where there is neither.
func habit() (client.Context, error) {
	if d, err := client.UserContexts(); err == nil {
		name, err := d.Current()
		if err != nil {
			return client.Context{}, err
		}
		if name != "" {
			return d.Load(name)
		}
	}
	dir, err := client.DefaultPlayground()
	if err != nil {
		return client.Context{}, nil //nolint:nilerr // then there is none, and the caller says what to name
	}
	if _, err := os.Stat(filepath.Join(dir, client.PlaygroundFile)); err != nil {
		return client.Context{}, nil //nolint:nilerr // as above
	}
	return playgroundContext(dir)
}

func playgroundContext(dir string) (client.Context, error) {
	p, err := client.LoadPlayground(dir)
	return p.Context(), err
}

func savedContext(name string) (client.Context, error) {
	d, err := client.UserContexts()
	if err != nil {
		return client.Context{}, err
	}
	return d.Load(name)
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

// style is how pictures are drawn on a stream.
func style(w io.Writer) (s tui.Style, width int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor
		return s, 0
	}
	s.Unicode = unicodeLocale()
	s.Color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if columns, _, err := term.GetSize(int(f.Fd())); err == nil { //nolint:gosec // a file descriptor
		width = columns
	}
	return s, width
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
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
func (a *app) say(format string, args ...any) { _, _ = fmt.Fprintf(a.errOut, format+"\n", args...) }

// answer sets the exit code of an answer that is bad without being an error.
func (a *app) answer(code int) { a.code = code }

// notFound is the error for a thing that the report doesn't have.
func notFound(what, id, list string) error {
	return themis.Errorf(themis.NotFound, "no %s %q in this cluster", what, id).Do("%s", list)
}
