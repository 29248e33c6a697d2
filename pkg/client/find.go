package client

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// Wish is what flags say about which cluster is meant, and as whom to go there.
type Wish struct {
	Playground    string   // --playground: a directory
	Context       string   // --context: a name
	Endpoints     []string // --endpoint: they replace those of the playground or the context
	CA, Cert, Key string   // --cacert, --cert, --key: they go over those of the playground or the context
	Cluster       string   // --cluster of the doctor: where nothing else is said, a context of that name or for a cluster of that name
}

// Find is the context that is meant: by flags, else by the THEMIS_* variables of env, else the current one, else that of the playground in the user's
// cache directory. Addresses have their port. INVALID_ARGUMENT says what is missing.
func (w Wish) Find(env map[string]string) (Context, error) {
	if w.Playground != "" && w.Context != "" {
		return Context{}, themis.Errorf(themis.InvalidArgument, "--playground and --context name two clusters: give one of them")
	}
	c, err := w.named(env)
	if err != nil {
		return c, err
	}
	if len(w.Endpoints) > 0 {
		c.Endpoints = slices.Clone(w.Endpoints)
	}
	for _, f := range []struct {
		flag, env string
		to        *string
	}{{w.CA, "THEMIS_CACERT", &c.CA}, {w.Cert, "THEMIS_CERT", &c.Cert}, {w.Key, "THEMIS_KEY", &c.Key}} {
		switch {
		case f.flag != "":
			*f.to = f.flag
		case env[f.env] != "":
			*f.to = env[f.env]
		}
	}
	if len(c.Endpoints) == 0 {
		return c, themis.Errorf(themis.InvalidArgument, "no cluster is named, there is no current context, and no playground").
			Do("themis-cli playground, or --endpoint HOST:%s --cacert FILE --cert FILE --key FILE", defaultPort)
	}
	if c.CA == "" || c.Cert == "" || c.Key == "" {
		return c, themis.Errorf(themis.InvalidArgument, "--cacert, --cert and --key (or $THEMIS_CACERT, $THEMIS_CERT and $THEMIS_KEY) are needed to talk to %s", strings.Join(c.Endpoints, ",")).
			Do("themis-cli pki issue --client %s --capabilities read,write,admin", user())
	}
	for i, e := range c.Endpoints {
		c.Endpoints[i] = WithPort(e)
		if err := CheckAddress(c.Endpoints[i]); err != nil {
			return c, err
		}
	}
	return c, nil
}

func user() string {
	if u := os.Getenv("USER"); u != "" {
		return u
	}
	return "operator"
}

// named is the context that flags, variables or habit name; an empty one where only addresses count, or nothing is there.
func (w Wish) named(env map[string]string) (Context, error) {
	switch {
	case w.Playground != "":
		return playgroundContext(w.Playground)
	case w.Context != "":
		return savedContext(w.Context)
	case len(w.Endpoints) > 0:
		return Context{}, nil
	case env["THEMIS_ENDPOINT"] != "":
		return Context{Endpoints: strings.Split(env["THEMIS_ENDPOINT"], ",")}, nil
	case env["THEMIS_PLAYGROUND"] != "":
		return playgroundContext(env["THEMIS_PLAYGROUND"])
	case env["THEMIS_CONTEXT"] != "":
		return savedContext(env["THEMIS_CONTEXT"])
	}
	if w.Cluster != "" {
		if c, found, err := contextOf(w.Cluster); found || err != nil {
			return c, err
		}
	}
	if c, err := currentContext(); err != nil || len(c.Endpoints) > 0 {
		return c, err
	}
	if dir := UserPlayground(); dir != "" {
		return playgroundContext(dir)
	}
	return Context{}, nil
}

// PlaygroundDir is the directory of the playground that is meant; empty: none is there, and none is named.
func (w Wish) PlaygroundDir(env map[string]string) (string, error) {
	switch {
	case w.Playground != "":
		return w.Playground, nil
	case w.Context != "":
		return playgroundOf(w.Context)
	case env["THEMIS_PLAYGROUND"] != "":
		return env["THEMIS_PLAYGROUND"], nil
	case env["THEMIS_CONTEXT"] != "":
		return playgroundOf(env["THEMIS_CONTEXT"])
	}
	c, err := currentContext()
	if err != nil {
		return "", err
	}
	if dir := c.Playground(); dir != "" {
		return dir, nil
	}
	return UserPlayground(), nil
}

// playgroundOf is the directory of a context that was named.
func playgroundOf(name string) (string, error) {
	c, err := savedContext(name)
	if err != nil {
		return "", err
	}
	dir := c.Playground()
	if dir == "" {
		return "", themis.Errorf(themis.InvalidArgument, "context %q: it is not that of a playground", name).Do("themis-cli playground list")
	}
	return dir, nil
}

// Playground is the directory of the playground that the context is of; empty: it is of another cluster, or of one that is gone.
func (c Context) Playground() string {
	dir := filepath.Dir(filepath.Dir(c.CA))
	p, err := LoadPlayground(dir)
	if err != nil || p.CA != c.CA {
		return ""
	}
	return dir
}

// contextOf is the context of that name, else the first one whose cluster has it.
func contextOf(cluster string) (Context, bool, error) {
	d, err := UserContexts()
	if err != nil {
		return Context{}, false, nil //nolint:nilerr // then there is none, and the caller says what to name
	}
	names, err := d.List()
	if err != nil {
		return Context{}, false, err
	}
	if slices.Contains(names, cluster) {
		c, err := d.Load(cluster)
		return c, err == nil, err
	}
	for _, n := range names {
		if c, err := d.Load(n); err == nil && c.Cluster == cluster {
			return c, true, nil
		}
	}
	return Context{}, false, nil
}

// currentContext is an empty one where there is none.
func currentContext() (Context, error) {
	d, err := UserContexts()
	if err != nil {
		return Context{}, nil //nolint:nilerr // as above
	}
	name, err := d.Current()
	if err != nil || name == "" {
		return Context{}, err
	}
	return d.Load(name)
}

// UserPlayground is the playground in the user's cache directory; empty: there is none.
func UserPlayground() string {
	dir, err := DefaultPlayground()
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, PlaygroundFile)); err != nil {
		return ""
	}
	return dir
}

func playgroundContext(dir string) (Context, error) {
	p, err := LoadPlayground(dir)
	return p.Context(), err
}

func savedContext(name string) (Context, error) {
	d, err := UserContexts()
	if err != nil {
		return Context{}, err
	}
	return d.Load(name)
}

const defaultPort = "50051"

// CheckAddress says why nothing can be reached at addr, whatever runs where: INVALID_ARGUMENT, or nil.
func CheckAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	n, bad := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || bad != nil || n == 0 {
		return themis.Errorf(themis.InvalidArgument, "address %q: want host:port with a port from 1 to 65535, and an IPv6 address in brackets", addr)
	}
	return nil
}

// WithPort gives an address without a port that of the gRPC service.
func WithPort(addr string) string {
	addr = strings.TrimSpace(addr)
	if addr == "" || strings.HasSuffix(addr, "]") || !strings.Contains(addr, ":") {
		return addr + ":" + defaultPort
	}
	return addr
}
