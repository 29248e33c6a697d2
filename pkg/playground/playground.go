// Package playground is a real cluster on this machine: every node a process of its own, with its own directory, certificate and
// ports, all on loopback, everything below one directory.
//
//	DIR/                    0700
//	  playground.json       for scripts: how to reach it and who runs, the contract's shape; a pid is null while its node is stopped
//	  state.json            for this package: ports, processes with their start times, what the cluster was founded with
//	  bin/                  the program that the nodes run, so that it stays when the original goes
//	  pki/                  CA, certificates and keys (0600) of the nodes and of the client `admin`
//	  node-1/themisd.yaml   its configuration; edits are kept
//	  node-1/themisd.log    what it said on stdout and stderr
//	  node-1/data/          its data directory
//
//	Found ──► processes ──cluster.init──► HEALTHY ──► playground.json        Start, Stop, Kill, Pause, … replace it
//
// What the room promises:
//   - Only processes that this playground started are ever signalled: boot, start time and the whole command line must be those
//     that were recorded, and the signal goes to the very process that was compared. No name is ever looked for.
//   - A directory that holds anything else is refused and not touched. A port that is taken is an error that names who has it.
//   - Files are replaced whole. One command changes a playground at a time; another one waits for a while, then says so.
//   - Stop ends every process, also paused ones; repeating what is done already is no error.
//
// Processes are told apart by /proc, so this needs Linux. Several programs may use one playground at a time; a Playground itself is
// for one goroutine. Nothing runs on in the background here. Errors are *themis.Error with what to do next.
package playground

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// Options is what a new playground should be.
type Options struct {
	Nodes        int              `json:"nodes"`              // that store documents
	Spares       int              `json:"spares"`             // hot spares on top
	Shards       int              `json:"shards"`             //
	RF           int              `json:"replication_factor"` // copies of a shard, with the primary
	K            int              `json:"min_sync_replicas"`  // followers, without the primary
	ControlNodes int              `json:"control_nodes"`      // 1, 3 or 5; 0: 3 where there are 3 nodes, else 1
	Redundancy   string           `json:"mode"`               // MIRROR, NONE
	Replication  themis.Mode      `json:"replication"`        // of every shard; hybrid: SyncShards are sync, the others async
	SyncShards   []themis.ShardID `json:"sync_shards"`
	Load         *Source          `json:"-"` // what it is to be filled with; Info tells it until Load has
}

// Default is three nodes with two copies of everything.
func Default() Options {
	return Options{Nodes: 3, Shards: 4, RF: 2, K: 1, Redundancy: "MIRROR", Replication: themis.Sync}
}

// maxNodes bounds the processes of one playground.
const maxNodes = 32

// Validate says everything that can't be about the options, with the arithmetic, before anything is started.
func (o Options) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, themis.Errorf(themis.InvalidArgument, format, args...))
	}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		fault("nodes %d: want 1 to %d", o.Nodes, maxNodes)
	}
	if o.Spares < 0 || o.Spares > maxNodes-1 || o.Nodes+o.Spares > maxNodes {
		fault("spares %d: want 0 or more, and at most %d processes together", o.Spares, maxNodes)
	}
	if o.Replication == themis.Hybrid && len(o.SyncShards) == 0 {
		fault("replication hybrid: sync_shards must say which shards are sync; the others are async")
	}
	if o.Replication != themis.Hybrid && len(o.SyncShards) > 0 {
		fault("sync_shards: they count only under replication hybrid; it is %s", o.Replication)
	}
	for _, s := range o.SyncShards {
		if !slices.Contains(shardNames(o.Shards), s) {
			fault("sync_shards: %s: there are only shard-1 to shard-%d", s, o.Shards)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	var nodes []cluster.Node
	for _, m := range o.members() {
		nodes = append(nodes, cluster.Node{ID: m.ID, Storage: themis.StorageID(m.ID), Role: m.Role, Control: &cluster.ControlMember{}})
	}
	mode, modes := o.modes()
	_, err := cluster.Found(cluster.Foundation{ // what the node that founds the cluster will ask
		Name: "playground", Redundancy: o.Redundancy, Nodes: nodes, Shards: o.Shards, ControlNodes: o.ControlNodes,
		Policy: cluster.Policy{Mode: mode, K: o.K, RF: o.RF}, Modes: modes,
	})
	return err
}

func shardNames(n int) []themis.ShardID {
	var out []themis.ShardID
	for i := 1; i <= n && i <= 4096; i++ {
		out = append(out, themis.ShardID(fmt.Sprint("shard-", i)))
	}
	return out
}

// modes is the mode of the shards in general, and of those that have another one.
func (o Options) modes() (themis.Mode, map[themis.ShardID]themis.Mode) {
	if o.Replication != themis.Hybrid {
		return o.Replication, nil
	}
	sync := map[themis.ShardID]themis.Mode{}
	for _, s := range o.SyncShards {
		sync[s] = themis.Sync
	}
	return themis.Async, sync
}

// members names the nodes: those that store documents first.
func (o Options) members() []member {
	var out []member
	for i := 1; i <= o.Nodes+o.Spares; i++ {
		m := member{ID: themis.NodeID(fmt.Sprint("node-", i)), Role: cluster.RoleActive}
		if i > o.Nodes {
			m.Role = cluster.RoleHotSpare
		}
		out = append(out, m)
	}
	return out
}

// Host is what a playground needs from the program that it runs in.
type Host struct {
	// Binary is a program that runs a node when it is called with Args and then --config FILE. Default: this program, node-run.
	Binary string
	Args   []string
	// Environ is the environment of the nodes; THEMIS_* is left out. Default: that of this program.
	Environ []string
	// Registry is the directory where the playgrounds of this user are listed; empty: they are not.
	Registry string
	// Contexts is where `--context` finds the playground; nil: no context is written.
	Contexts *client.Contexts
	// Step is told what was done and how long that took; nil: nobody is.
	Step func(what string, took time.Duration)
}

func (h Host) complete() (Host, error) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return h, themis.Errorf(themis.Unimplemented, "a playground tells its processes by /proc, which this system does not have: %w", err).Do("run it on Linux, or set up nodes by hand: themis-cli cluster init --help")
	}
	if h.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return h, fmt.Errorf("find this program: %w", err)
		}
		h.Binary = self
	}
	if h.Args == nil {
		h.Args = []string{"node-run"}
	}
	if h.Environ == nil {
		h.Environ = os.Environ()
	}
	if h.Step == nil {
		h.Step = func(string, time.Duration) {}
	}
	return h, nil
}

// step runs one step and tells how long it took.
func (h Host) step(what string, do func() error) error {
	began := time.Now()
	if err := do(); err != nil {
		return err
	}
	h.Step(what, time.Since(began))
	return nil
}

// Playground is one playground, running or not.
type Playground struct {
	Dir string

	host Host
}

// Open finds the playground in dir. One that was never finished is INVALID_ARGUMENT, like a directory without any.
func Open(dir string, h Host) (*Playground, error) {
	p, s, err := open(dir, h)
	if err == nil && !s.Founded {
		err = themis.Errorf(themis.InvalidArgument, "the playground in %s was never finished", p.Dir).
			Do("themis-cli playground --data-dir %s, or end what is left of it: themis-cli playground stop --data-dir %s", p.Dir, p.Dir)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// OpenAny finds the playground in dir, also one whose founding broke off: its processes may run.
func OpenAny(dir string, h Host) (*Playground, error) {
	p, _, err := open(dir, h)
	return p, err
}

func open(dir string, h Host) (*Playground, *state, error) {
	h, err := h.complete()
	if err != nil {
		return nil, nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, nil, themis.Errorf(themis.InvalidArgument, "data directory: %w", err)
	}
	p := &Playground{Dir: dir, host: h}
	s, err := p.read()
	switch {
	case err != nil:
		return nil, nil, err
	case s == nil:
		return nil, nil, p.none()
	}
	return p, s, nil
}

// Exists answers whether dir holds a finished playground.
func Exists(dir string) bool {
	s, err := (&Playground{Dir: dir}).read()
	return err == nil && s != nil && s.Founded
}

func (p *Playground) path(parts ...string) string {
	return filepath.Join(append([]string{p.Dir}, parts...)...)
}

func (p *Playground) files() pki.Files { return pki.FilesIn(p.path(pkiDir), adminName) }

// Client connects to the nodes as the administrator. The caller closes it.
func (p *Playground) Client(ctx context.Context) (*client.Client, error) {
	s, err := p.read()
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, p.none()
	}
	return p.connect(ctx, s)
}

// connect asks nodes that run first: the order of the endpoints is the order in which they are tried.
func (p *Playground) connect(ctx context.Context, s *state) (*client.Client, error) {
	var running, others []string
	for _, m := range s.Nodes {
		if p.look(m) == Running {
			running = append(running, m.GRPC)
		} else {
			others = append(others, m.GRPC)
		}
	}
	return client.New(ctx, client.Options{Endpoints: append(running, others...), Files: p.files()})
}

// Info is a playground as its users are told about it.
type Info struct {
	Dir     string     `json:"dir"`
	Context string     `json:"context"` // its name; empty: none was written
	Cluster string     `json:"cluster"`
	CA      string     `json:"ca_cert"`
	Cert    string     `json:"client_cert"`
	Key     string     `json:"client_key"`
	Running int        `json:"running"` // processes, also paused ones
	Options Options    `json:"founded_with"`
	Nodes   []NodeInfo `json:"nodes"`

	Unloaded *Source `json:"unloaded,omitempty"` // what was to be loaded, and was not to its end
}

// NodeInfo is a node of the file, and what became of its process.
type NodeInfo struct {
	FileNode
	Role    cluster.Role `json:"role"`
	Process ProcessState `json:"process"`
}

// Info looks at the processes.
func (p *Playground) Info() (Info, error) {
	s, err := p.read()
	if err != nil {
		return Info{}, err
	}
	if s == nil {
		return Info{}, p.none()
	}
	f := p.file(s)
	out := Info{Dir: p.Dir, Context: s.Context, Cluster: f.Cluster, CA: f.CA, Cert: f.Cert, Key: f.Key, Options: s.Options, Unloaded: s.Unloaded}
	for i, m := range s.Nodes {
		n := NodeInfo{f.Nodes[i], m.Role, p.look(m)}
		if n.Process != Stopped {
			out.Running++
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out, nil
}

func (p *Playground) none() error {
	return themis.Errorf(themis.InvalidArgument, "there is no playground in %s", p.Dir).Do("themis-cli playground --data-dir %s", p.Dir)
}

// LogTail is the end of a node's log: at most n lines.
func (p *Playground) LogTail(node themis.NodeID, n int) []string {
	return tail(p.path(string(node), logName), n)
}

// tail is the last n lines of a file, of its last 64 KiB.
func tail(path string, n int) []string {
	const most = 64 << 10
	f, err := os.Open(path) //nolint:gosec // a file of the playground
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // only read from
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) //nolint:errcheck // then it is read from the start
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil
	}
	lines := slices.Collect(linesOf(b))
	return lines[max(0, len(lines)-n):]
}
