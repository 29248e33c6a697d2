package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// Context is how one user reaches one cluster: a file <name>.json in the directory of contexts.
type Context struct {
	Cluster   string   `json:"cluster"`
	Endpoints []string `json:"endpoints"`
	CA        string   `json:"ca_cert"`
	Cert      string   `json:"client_cert"`
	Key       string   `json:"client_key"`
}

// Files is the identity that the context names.
func (c Context) Files() pki.Files { return pki.Files{Cert: c.Cert, Key: c.Key, CA: c.CA} }

// Contexts is a user's directory of contexts. The file `current` beside them holds the name of the current one.
type Contexts struct{ Dir string }

// UserContexts is the directory in the user's configuration directory, os.UserConfigDir()/themis/contexts.
func UserContexts() (Contexts, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return Contexts{}, themis.Errorf(themis.InvalidArgument, "contexts: %w", err).Do("set HOME or XDG_CONFIG_HOME, or name the cluster by --endpoint")
	}
	return Contexts{filepath.Join(dir, "themis", "contexts")}, nil
}

var contextName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

const (
	contextSuffix = ".json"
	currentFile   = "current"
)

func checkContext(name string) error {
	if !contextName.MatchString(name) {
		return themis.Errorf(themis.InvalidArgument, "context %q: want up to 63 letters, digits, dots, dashes and underscores", name)
	}
	return nil
}

// Load reads a context.
func (d Contexts) Load(name string) (Context, error) {
	var c Context
	if err := checkContext(name); err != nil {
		return c, err
	}
	file := filepath.Join(d.Dir, name+contextSuffix)
	b, err := os.ReadFile(file) //nolint:gosec // the user's own directory
	if errors.Is(err, fs.ErrNotExist) {
		names, _ := d.List() //nolint:errcheck // it only makes the message better
		return c, themis.Errorf(themis.InvalidArgument, "context %q: there is none in %s; there are: %s", name, d.Dir, orNone(names)).Do("themis-cli context list")
	}
	if err != nil {
		return c, themis.Errorf(themis.InvalidArgument, "context %q: %w", name, err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, themis.Errorf(themis.InvalidArgument, "context %s: %w", file, err)
	}
	if len(c.Endpoints) == 0 {
		return c, themis.Errorf(themis.InvalidArgument, "context %s: endpoints: none", file)
	}
	return c, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// List names the contexts, sorted.
func (d Contexts) List() ([]string, error) {
	entries, err := os.ReadDir(d.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "contexts: %w", err)
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), contextSuffix); ok && contextName.MatchString(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Current is the name of the current context; empty: there is none.
func (d Contexts) Current() (string, error) {
	b, err := os.ReadFile(filepath.Join(d.Dir, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", themis.Errorf(themis.InvalidArgument, "current context: %w", err).Do("ls -l %s, or name the cluster by --playground or --endpoint", d.Dir)
	}
	return strings.TrimSpace(string(b)), nil
}

// Use makes a context the current one.
func (d Contexts) Use(name string) error {
	if _, err := d.Load(name); err != nil {
		return err
	}
	return d.replace(currentFile, []byte(name+"\n"))
}

// Save writes a context, and makes it the current one where there is none.
func (d Contexts) Save(name string, c Context) error {
	if err := checkContext(name); err != nil {
		return err
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("save context %s: %w", name, err)
	}
	if err := d.replace(name+contextSuffix, append(b, '\n')); err != nil {
		return err
	}
	if now, err := d.Current(); err != nil || now != "" {
		return err
	}
	return d.replace(currentFile, []byte(name+"\n"))
}

// SaveBeside writes a context under base, or where that is another cluster's under base-2 and so on, and answers the name. A context is
// another cluster's where it names another CA, whose file is there.
func (d Contexts) SaveBeside(base string, c Context) (string, error) {
	for i := 1; i < 100; i++ {
		name := base
		if i > 1 {
			name = fmt.Sprintf("%s-%d", base, i)
		}
		if d.another(name, c) {
			continue
		}
		return name, d.Save(name, c)
	}
	return "", themis.Errorf(themis.InvalidArgument, "contexts: %s-99 and all below are taken", base).Do("themis-cli context list")
}

func (d Contexts) another(name string, c Context) bool {
	if _, err := os.Stat(filepath.Join(d.Dir, name+contextSuffix)); errors.Is(err, fs.ErrNotExist) {
		return false
	}
	there, err := d.Load(name)
	if err != nil { // whoever wrote it may mend it
		return true
	}
	_, err = os.Stat(there.CA)
	return there.CA != c.CA && !errors.Is(err, fs.ErrNotExist)
}

// replace leaves the old or the new content, whatever happens in between.
func (d Contexts) replace(name string, b []byte) error {
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return themis.Errorf(themis.InvalidArgument, "save context: %w", err)
	}
	f, err := os.CreateTemp(d.Dir, "."+name+".new-*")
	if err != nil {
		return themis.Errorf(themis.InvalidArgument, "save context: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(d.Dir, name))
	}
	if err != nil {
		return themis.Errorf(themis.InvalidArgument, "save context: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// Playground is playground.json: a cluster of processes on this machine.
type Playground struct {
	Cluster string           `json:"cluster"`
	CA      string           `json:"ca_cert"`
	Cert    string           `json:"client_cert"`
	Key     string           `json:"client_key"`
	Nodes   []PlaygroundNode `json:"nodes"`
}

// PlaygroundNode is one of them.
type PlaygroundNode struct {
	ID      themis.NodeID `json:"id"`
	Pid     int           `json:"pid"`
	GRPC    string        `json:"grpc_addr"`
	HTTP    string        `json:"http_addr"`
	Metrics string        `json:"metrics_addr"`
	DataDir string        `json:"data_dir"`
	Log     string        `json:"log"`
}

// PlaygroundFile is the file's name in a playground's directory.
const PlaygroundFile = "playground.json"

// LoadPlayground reads DIR/playground.json.
func LoadPlayground(dir string) (Playground, error) {
	var p Playground
	file := filepath.Join(dir, PlaygroundFile)
	b, err := os.ReadFile(file) //nolint:gosec // the user named it
	if err != nil {
		return p, themis.Errorf(themis.InvalidArgument, "playground: %w", err).Do("themis-cli playground --data-dir %s", dir)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, themis.Errorf(themis.InvalidArgument, "playground %s: %w", file, err)
	}
	if len(p.Nodes) == 0 {
		return p, themis.Errorf(themis.InvalidArgument, "playground %s: nodes: none", file)
	}
	return p, nil
}

// DefaultPlayground is the directory that is used when none is named: os.UserCacheDir()/themis/playground.
func DefaultPlayground() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", themis.Errorf(themis.InvalidArgument, "playground: %w", err).Do("set HOME or XDG_CACHE_HOME, or name a directory")
	}
	return filepath.Join(dir, "themis", "playground"), nil
}

// Context is how the playground is reached.
func (p Playground) Context() Context {
	c := Context{Cluster: p.Cluster, CA: p.CA, Cert: p.Cert, Key: p.Key}
	for _, n := range p.Nodes {
		c.Endpoints = append(c.Endpoints, n.GRPC)
	}
	return c
}
