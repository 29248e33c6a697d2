package playground

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	stateName  = "state.json"
	lockName   = "lock"
	pkiDir     = "pki"
	binDir     = "bin"
	dataDir    = "data"
	configName = "themisd.yaml"
	logName    = "themisd.log"
	adminName  = "admin"

	clusterName = "playground"
	stateFormat = 1
)

// state is state.json: what the playground remembers.
type state struct {
	Format  int       `json:"format"`
	Dir     string    `json:"dir"` // where it was made; its files name each other by this path
	Created time.Time `json:"created"`
	Founded bool      `json:"founded"` // it was HEALTHY once
	Cluster string    `json:"cluster"`
	Context string    `json:"context"`
	Binary  string    `json:"binary"` // below bin/
	Args    []string  `json:"args"`   // before --config FILE
	Options Options   `json:"options"`
	Nodes   []member  `json:"nodes"`

	Unloaded *Source `json:"unloaded,omitempty"` // a load of it has begun, or is to, and has not come to its end
}

// member is one node.
type member struct {
	ID      themis.NodeID `json:"id"`
	Role    cluster.Role  `json:"role"`
	GRPC    string        `json:"grpc_addr"`
	HTTP    string        `json:"http_addr"`
	Metrics string        `json:"metrics_addr"`
	Peer    string        `json:"control_peer_addr"`
	Client  string        `json:"control_client_addr"`
	Process *process      `json:"process"` // null: it was stopped

	command []string // its whole command line
}

// ports are the member's addresses and what each is for.
func (m *member) ports() []port {
	return []port{
		{&m.GRPC, "node.grpc_listen"}, {&m.HTTP, "node.http_listen"}, {&m.Metrics, "node.metrics_listen"},
		{&m.Peer, "control.peer_listen"}, {&m.Client, "control.client_listen"},
	}
}

type port struct {
	addr *string
	key  string // of the configuration
}

// File is playground.json, as CONTRACT.md and docs/reference promise it to scripts.
type File struct {
	Cluster string     `json:"cluster"`
	CA      string     `json:"ca_cert"`
	Cert    string     `json:"client_cert"`
	Key     string     `json:"client_key"`
	Nodes   []FileNode `json:"nodes"`
}

// FileNode is one node of playground.json.
type FileNode struct {
	ID      themis.NodeID `json:"id"`
	Pid     *int          `json:"pid"` // null: it is stopped
	GRPC    string        `json:"grpc_addr"`
	HTTP    string        `json:"http_addr"`
	Metrics string        `json:"metrics_addr"`
	DataDir string        `json:"data_dir"`
	Log     string        `json:"log"`
}

func (p *Playground) file(s *state) File {
	f := p.files()
	out := File{Cluster: s.Cluster, CA: f.CA, Cert: f.Cert, Key: f.Key}
	for _, m := range s.Nodes {
		n := FileNode{
			ID: m.ID, GRPC: m.GRPC, HTTP: m.HTTP, Metrics: m.Metrics, DataDir: p.path(string(m.ID), dataDir), Log: p.path(string(m.ID), logName),
		}
		if p.look(m) != Stopped {
			n.Pid = &m.Process.PID
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out
}

// read reads state.json; nil where there is none.
func (p *Playground) read() (*state, error) {
	name := p.path(stateName)
	b, err := os.ReadFile(name) //nolint:gosec // the user's directory
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	s := &state{}
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	switch {
	case err != nil:
		return nil, themis.Errorf(themis.InvalidArgument, "%s: %w", name, err).Do("choose another directory: --data-dir DIR")
	case s.Format != stateFormat:
		return nil, themis.Errorf(themis.Unimplemented, "%s has format %d, this version knows %d", name, s.Format, stateFormat).Do("use the themis-cli that made it")
	}
	if err := p.sameDir(s); err != nil {
		return nil, err
	}
	p.commands(s)
	return s, nil
}

// sameDir refuses a playground that was moved: its files name each other by path.
func (p *Playground) sameDir(s *state) error {
	if s.Dir == p.Dir {
		return nil
	}
	made, err := os.Stat(s.Dir)
	now, err2 := os.Stat(p.Dir)
	if err == nil && err2 == nil && os.SameFile(made, now) {
		p.Dir = s.Dir // by another path
		return nil
	}
	return themis.Errorf(themis.InvalidArgument, "the playground in %s was made in %s, and its configuration names that path", p.Dir, s.Dir).Do("mv %s %s", p.Dir, s.Dir)
}

func (p *Playground) write(s *state) error {
	if err := replaceJSON(p.path(stateName), s); err != nil {
		return err
	}
	if !s.Founded {
		return nil
	}
	return replaceJSON(p.path(client.PlaygroundFile), p.file(s))
}

const lockWithin = 30 * time.Second

// change runs do on what the playground remembers, with no other command at work, and writes down what became of it, also when do
// fails on the way.
func (p *Playground) change(ctx context.Context, do func(*state) error) error {
	l, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer l.Close() //nolint:errcheck // closing gives the lock back
	s, err := p.read()
	if err != nil {
		return err
	}
	if s == nil {
		return p.none()
	}
	if err := p.adopt(s); err != nil {
		return err
	}
	err = do(s)
	return errors.Join(err, p.write(s))
}

// lock waits until no other command is at work in the directory. Closing the file gives it back, and so does the end of the process.
func (p *Playground) lock(ctx context.Context) (*os.File, error) {
	return lockFile(ctx, p.path(lockName), "another command is at work on the playground in "+p.Dir)
}

func lockFile(ctx context.Context, name, busy string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the user's directory
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWithin)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a descriptor
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(themis.Errorf(themis.InvalidArgument, "lock %s: %w", name, err), f.Close())
		}
		if !pause(ctx, pollEvery) {
			return nil, errors.Join(themis.Errorf(themis.Deadline, "%s", busy).Do("wait for it, or see who has it: fuser -v %s", name), f.Close())
		}
	}
}

// pause waits for d, or answers false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// claim makes the directory, or refuses one that holds something else.
func (p *Playground) claim() error {
	refuse := func(err error) error {
		return themis.Errorf(themis.InvalidArgument, "data directory %s: %w", p.Dir, err).Do("choose an empty or a new one: --data-dir DIR")
	}
	entries, err := os.ReadDir(p.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(p.Dir, 0o700)
	}
	if err != nil {
		return refuse(err)
	}
	for _, e := range entries {
		if e.Name() == stateName {
			return nil
		}
	}
	for _, e := range entries {
		begun := e.Name() == lockName || strings.HasPrefix(e.Name(), unfinished(stateName)) // by another that makes one here, or was killed at it
		if !begun || !e.Type().IsRegular() {
			return refuse(fmt.Errorf("it holds something else: %s", e.Name()))
		}
	}
	if err := os.Chmod(p.Dir, 0o700); err != nil { //nolint:gosec // a directory
		return refuse(err)
	}
	return nil
}

// clear takes away what a founding left that did not come to its end.
func (p *Playground) clear(s *state) error {
	left := []string{pkiDir, binDir, client.PlaygroundFile}
	for _, m := range s.Nodes {
		left = append(left, string(m.ID))
	}
	for _, name := range append(left, stateName) { // the last: until then the directory is known as ours
		if err := os.RemoveAll(p.path(name)); err != nil {
			return themis.Errorf(themis.InvalidArgument, "clear %s: %w", p.Dir, err).Do("rm -r %s", p.Dir)
		}
	}
	return nil
}

func replaceJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return replaceFile(name, append(b, '\n'))
}

// unfinished is how the names of files begin that are to become name.
func unfinished(name string) string { return "." + name + ".new-" }

// replaceFile leaves the old or the new content at name (mode 0600), whatever happens in between, and returns when it is on disk.
func replaceFile(name string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), unfinished(filepath.Base(name))+"*")
	if err != nil {
		return themis.Errorf(themis.InvalidArgument, "write %s: %w", name, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return themis.Errorf(themis.InvalidArgument, "write %s: %w", name, errors.Join(err, os.Remove(f.Name())))
	}
	d, err := os.Open(filepath.Dir(name))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return themis.Errorf(themis.InvalidArgument, "write %s: %w", name, err)
	}
	return nil
}

func linesOf(b []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for line := range strings.Lines(string(b)) {
			if !yield(strings.TrimRight(line, "\r\n")) {
				return
			}
		}
	}
}
