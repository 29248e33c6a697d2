package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// initFlags are those of `cluster init`.
type initFlags struct {
	nodes        []string
	name         string
	shards       int
	rf           int
	k            int
	controlNodes int
	replication  string
	syncShards   []string
	mode         string
	virtual      int
	dryRun       bool
	noContext    bool
	noWait       bool
	given        func(flag string) bool
}

func clusterInit(a *app) *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use: "init --nodes HOST,HOST,…", Short: "Make a cluster out of nodes that run and belong to none",
		Long: `Make a cluster out of nodes that run, belong to no cluster, and have certificates of one CA.

What can't be is refused, with the arithmetic, before anything is changed. Repeated after a failure on the way it goes on; repeated
when the cluster is there it changes nothing and exits 0.

What a flag doesn't say is taken from the nodes' own configurations, where they set what is fixed when a cluster is made, else it is the
flag's default.`,
		Example: "  themis-cli cluster init --nodes node-1,node-2,node-3,node-4 --shards 4 --replication-factor 2",
		Args:    usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.given = cmd.Flags().Changed
			return a.initCluster(cmd.Context(), f)
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&f.nodes, "nodes", nil, "gRPC addresses of the nodes; the port is 50051 unless it is given")
	fs.StringVar(&f.name, "name", "", "name of the cluster; default: the one in the certificate")
	fs.IntVar(&f.shards, "shards", 4, "number of shards")
	fs.IntVar(&f.rf, "replication-factor", 2, "copies of each shard, with the primary")
	fs.IntVar(&f.k, "min-sync-replicas", 1, "followers that must have a write before it is acknowledged")
	fs.IntVar(&f.controlNodes, "control-nodes", 0, "members of the control plane: 1, 3 or 5; default: 3 where there are 3 nodes, else 1")
	fs.StringVar(&f.replication, "replication", "sync", "sync, semi_sync, async, or hybrid with --sync-shards")
	fs.StringSliceVar(&f.syncShards, "sync-shards", nil, "under hybrid: the shards that are sync; the others are async")
	fs.StringVar(&f.mode, "mode", "MIRROR", "MIRROR, or NONE for one copy")
	fs.IntVar(&f.virtual, "virtual-nodes", 150, "points of each shard on the ring that makes the first placement")
	fs.BoolVar(&f.dryRun, "dry-run", false, "show what would be made, and change nothing")
	fs.BoolVar(&f.noWait, "no-wait", false, "don't wait until every shard serves")
	fs.BoolVar(&f.noContext, "no-context", false, "write no context for the new cluster")
	return cmd
}

// request makes the request of the flags, and refuses what can't be without asking anybody.
func (f initFlags) request() (client.InitRequest, error) {
	r := client.InitRequest{
		Name: f.name, Shards: f.shards, RF: f.rf, K: f.k, ControlNodes: f.controlNodes, Redundancy: strings.ToUpper(f.mode), VirtualNodes: f.virtual,
	}
	if len(f.nodes) == 0 {
		return r, usage.Wrong("--nodes: none; want the addresses of the nodes that the cluster is made of").
			Do("themis-cli cluster init --nodes node-1,node-2,node-3,node-4 --shards 4 --replication-factor 2")
	}
	for _, n := range f.nodes {
		addr := client.WithPort(n)
		if err := client.CheckAddress(addr); err != nil {
			return r, fmt.Errorf("--nodes: %w", err)
		}
		if slices.Contains(r.Nodes, addr) {
			return r, usage.Wrong("--nodes: %s is named twice", addr)
		}
		r.Nodes = append(r.Nodes, addr)
	}
	mode, err := themis.ParseMode(f.replication)
	if err != nil {
		return r, err
	}
	r.Mode = mode
	if mode == themis.Hybrid {
		r.Mode = themis.Async
	}
	r.Modes = map[themis.ShardID]themis.Mode{}
	for _, s := range f.syncShards {
		id, err := themis.ParseShardID(s)
		if err != nil {
			return r, err
		}
		r.Modes[id] = themis.Sync
	}
	return r, nil
}

// arithmetic refuses what no cluster could be, whoever its nodes are.
func (f initFlags) arithmetic(r client.InitRequest) error {
	hybrid := strings.EqualFold(f.replication, string(themis.Hybrid))
	switch {
	case hybrid && len(f.syncShards) == 0:
		return usage.Wrong("--replication hybrid: --sync-shards must name the shards that are sync")
	case !hybrid && len(f.syncShards) > 0:
		return usage.Wrong("--sync-shards: only under --replication hybrid; it is %s", r.Mode)
	case r.RF > len(r.Nodes):
		return usage.Wrong("--replication-factor %d needs %d nodes, each with one copy of a shard; --nodes names %d", r.RF, r.RF, len(r.Nodes)).
			Do("name %s, or --replication-factor %d", counted(r.RF-len(r.Nodes), "more node"), len(r.Nodes))
	case r.ControlNodes > len(r.Nodes):
		return usage.Wrong("--control-nodes %d: --nodes names %d", r.ControlNodes, len(r.Nodes))
	case r.Mode != themis.Async && r.RF > 1 && r.K+1 > r.RF:
		return usage.Wrong("--min-sync-replicas %d: with the primary that is %d copies that must have a write, --replication-factor is %d", r.K, r.K+1, r.RF).
			Do("--min-sync-replicas %d, or --replication-factor %d", r.RF-1, r.K+1)
	}
	for id := range r.Modes {
		if n := number64(id); n > r.Shards {
			return usage.Wrong("--sync-shards: %s: there are only shard-1 to shard-%d", id, r.Shards)
		}
	}
	if r.VirtualNodes < 1 {
		return usage.Wrong("--virtual-nodes %d: want at least 1", r.VirtualNodes)
	}
	if r.Name != "" {
		if err := themis.CheckNode(r.Name); err != nil {
			return usage.Wrong("--name %q: want a DNS label: lower-case letters, digits and dashes, at most 63", r.Name)
		}
	}
	nodes := make([]client.Description, len(r.Nodes)) // all as good as nodes can be
	for i := range nodes {
		nodes[i] = client.Description{Node: themis.NodeID(fmt.Sprintf("node-%d", i+1)), Role: cluster.RoleActive}
	}
	_, err := foundation(r, nodes)
	return err
}

// number64 is the number in a canonical shard id.
func number64(id themis.ShardID) (n int) {
	_, _ = fmt.Sscanf(string(id), "shard-%d", &n)
	return n
}

const initTime = 90 * time.Second

func (a *app) initCluster(ctx context.Context, f initFlags) (err error) {
	r, err := f.request()
	if err != nil {
		return err
	}
	impossible := f.arithmetic(r) // unless the nodes' own configurations say otherwise
	ctx, cancel := a.limited(ctx, initTime)
	defer cancel()
	a.flags.endpoints = r.Nodes
	t, err := a.target()
	if err != nil {
		return cmp.Or(impossible, err)
	}
	c, err := client.New(ctx, client.Options{Endpoints: t.Endpoints, Files: t.Files(), Timeout: initTime})
	if err != nil {
		return cmp.Or(impossible, err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	nodes, err := describeAll(ctx, c, r.Nodes)
	if err != nil {
		return cmp.Or(impossible, err)
	}
	said, err := f.fill(nodes)
	if err != nil {
		return err
	}
	for _, s := range said {
		a.say("# %s", s)
	}
	if r, err = f.request(); err != nil {
		return err
	}
	if err := f.arithmetic(r); err != nil {
		return err
	}
	if own := c.Identity().Cluster; r.Name == "" {
		r.Name = own
	} else if own != "" && r.Name != own {
		return usage.Wrong("--name %s: the certificate is for a cluster named %s", r.Name, own).Do("--name %s, or certificates of another CA", own)
	}
	there, err := a.existing(ctx, t, nodes, r)
	if err != nil || there != nil {
		return a.initAnswer(there, err, "exists already; nothing was changed")
	}
	plan, err := foundation(r, nodes)
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.initAnswer(planAnswer(r, plan), nil, "would be made; nothing was changed")
	}
	made, err := initThrough(ctx, t, nodes, r)
	if themis.CodeOf(err) == themis.RefusedUnsafe {
		within := askTime // somebody else has just made it, or this command a moment ago
		if slices.ContainsFunc(nodes, func(d client.Description) bool { return d.ClusterID != "" }) {
			within = settleTime // it is old, and its control plane has come up just now
		}
		if there, err2 := a.awaitExisting(ctx, within, t, r); there != nil || err2 != nil {
			return a.initAnswer(there, err2, "exists already; nothing was changed")
		}
	}
	if err != nil {
		return err
	}
	out := &initAnswer{Cluster: made.Cluster, ClusterID: made.ClusterID, Nodes: made.Nodes, Control: made.Control, Shards: placements(made.Shards), Created: true}
	if !f.noContext {
		out.Context = a.remember(made.Cluster, t)
	}
	if f.noWait {
		return a.initAnswer(out, nil, "is made")
	}
	return errors.Join(a.initAnswer(out, nil, "is made"), awaitService(ctx, c))
}

const settleTime = 2 * time.Second // from a control plane that answers to a node that knows what it holds

// awaitExisting looks a few times: the nodes learn of their new cluster a moment after it was made.
func (a *app) awaitExisting(ctx context.Context, within time.Duration, t client.Context, r client.InitRequest) (*initAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		there, err := a.lookAgain(ctx, t, r)
		switch {
		case there != nil:
			return there, nil
		case ctx.Err() != nil: // what broke off says nothing
			return nil, nil
		case err != nil:
			return nil, err
		}
		if !pause(ctx, 100*time.Millisecond) {
			return nil, nil
		}
	}
}

func (a *app) lookAgain(ctx context.Context, t client.Context, r client.InitRequest) (out *initAnswer, err error) {
	c, err := client.New(ctx, client.Options{Endpoints: r.Nodes, Files: t.Files(), Timeout: askTime})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	nodes, err := describeAll(ctx, c, r.Nodes)
	if err != nil {
		return nil, err
	}
	return a.existing(ctx, t, nodes, r)
}

// pause waits, and answers false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// awaitService waits until every shard takes reads and writes.
func awaitService(ctx context.Context, c *client.Client) error {
	why := "no node tells the state"
	for {
		r, err := c.Report(ctx)
		switch {
		case err != nil:
			why = err.Error()
		default:
			if why = notServing(r); why == "" {
				return nil
			}
		}
		if !pause(ctx, 100*time.Millisecond) {
			return themis.Errorf(themis.Deadline, "the cluster is made, but does not serve yet: %s", why).Do("themis-cli cluster health --watch")
		}
	}
}

func notServing(r health.Report) string {
	if len(r.Shards) == 0 {
		return "no shard is known"
	}
	for _, s := range r.Shards {
		if s.Readable == nil || !*s.Readable || s.Writable == nil || !*s.Writable {
			return fmt.Sprintf("%s is %s", s.ID, s.State)
		}
	}
	return ""
}

// describeAll asks every node who it is, all at once; those that don't answer are named together.
func describeAll(ctx context.Context, c *client.Client, addrs []string) ([]client.Description, error) {
	out, faults := make([]client.Description, len(addrs)), make([]error, len(addrs))
	var asking sync.WaitGroup
	for i, addr := range addrs {
		asking.Go(func() {
			asked, cancel := context.WithTimeout(ctx, askTime)
			defer cancel()
			var err error
			if out[i], err = c.Describe(asked, addr); err != nil {
				faults[i] = fmt.Errorf("node %s: %w", addr, err)
			}
		})
	}
	asking.Wait()
	return out, errors.Join(faults...)
}

// existing answers whether the nodes are that very cluster already: nil if it is still to be made, or half made.
func (a *app) existing(ctx context.Context, t client.Context, nodes []client.Description, r client.InitRequest) (*initAnswer, error) {
	var in *client.Description
	var at string
	for i, d := range nodes {
		switch {
		case d.ClusterID == "":
		case in != nil && in.ClusterID != d.ClusterID:
			return nil, themis.Errorf(themis.RefusedUnsafe, "%s belongs to cluster %s (%s), %s to %s (%s)", in.Node, in.Cluster, in.ClusterID, d.Node, d.Cluster, d.ClusterID)
		default:
			in, at = &nodes[i], r.Nodes[i]
		}
	}
	if in == nil {
		return nil, nil
	}
	c, err := client.New(ctx, client.Options{Endpoints: []string{at}, Files: t.Files(), Timeout: askTime})
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // it was only asked
	m, err := c.Map(ctx)
	if themis.CodeOf(err) == themis.NoPrimary {
		return nil, nil // an init that broke off on the way: it goes on
	}
	if err != nil {
		return nil, err
	}
	for i, d := range nodes {
		if _, ok := m.Node(d.Node); !ok {
			return nil, themis.Errorf(themis.RefusedUnsafe, "cluster %s exists, and %s (%s) is not a member", m.Cluster, d.Node, r.Nodes[i]).Do("themis-cli node join %s", r.Nodes[i])
		}
	}
	if len(m.Shards) != r.Shards || m.Shards[0].Want.RF != r.RF { // members that joined since are no difference
		return nil, themis.Errorf(themis.RefusedUnsafe, "cluster %s exists with %d shards and replication factor %d; %d and %d were asked for",
			m.Cluster, len(m.Shards), m.Shards[0].Want.RF, r.Shards, r.RF).Do("themis-cli cluster status")
	}
	return &initAnswer{Cluster: m.Cluster, ClusterID: m.ClusterID, Nodes: memberIDs(m.Members), Control: controlIDs(m.Members), Shards: placements(m.Shards)}, nil
}

// initThrough lets one of the nodes do it: one that has begun already, else the first.
func initThrough(ctx context.Context, t client.Context, nodes []client.Description, r client.InitRequest) (client.InitResult, error) {
	through := r.Nodes[0]
	for i, d := range nodes {
		if d.ClusterID != "" {
			through = r.Nodes[i]
		}
	}
	c, err := client.New(ctx, client.Options{Endpoints: []string{through}, Files: t.Files(), Timeout: initTime})
	if err != nil {
		return client.InitResult{}, err
	}
	out, err := c.Init(ctx, r)
	return out, errors.Join(err, c.Close())
}

// foundation is the cluster as it would be made; the node that makes it decides by the same function.
func foundation(r client.InitRequest, nodes []client.Description) (cluster.Founded, error) {
	f := cluster.Foundation{
		Name: r.Name, Redundancy: r.Redundancy, Shards: r.Shards, ControlNodes: r.ControlNodes, Modes: r.Modes,
		Policy: cluster.Policy{Mode: r.Mode, K: r.K, RF: r.RF},
	}
	for _, d := range nodes {
		f.Nodes = append(f.Nodes, cluster.Node{
			ID: d.Node, Storage: d.Storage, GRPC: d.GRPC, Region: d.Region, Datacenter: d.Datacenter, Rack: d.Rack, Role: d.Role, Control: &cluster.ControlMember{},
		})
	}
	return cluster.Found(f)
}

// initAnswer is the JSON of `cluster init`.
type initAnswer struct {
	Cluster   string           `json:"cluster"`
	ClusterID themis.ClusterID `json:"cluster_id"` // empty: not made
	Created   bool             `json:"created"`
	Nodes     []themis.NodeID  `json:"nodes"`
	Control   []themis.NodeID  `json:"control_nodes"`
	Shards    []placement      `json:"shards"`
	Context   string           `json:"context"` // that was written; empty: none
}

// placement says where the copies of a shard are.
type placement struct {
	ID       themis.ShardID  `json:"id"`
	Mode     themis.Mode     `json:"mode"`
	RF       int             `json:"replication_factor"`
	K        int             `json:"min_sync_replicas"`
	Replicas []themis.NodeID `json:"replicas"`
}

func placements(shards []cluster.Shard) []placement {
	out := make([]placement, 0, len(shards))
	for _, s := range shards {
		p := placement{ID: s.ID, Mode: s.Have.Mode, RF: s.Have.RF, K: s.Have.K}
		for _, x := range s.Replicas {
			p.Replicas = append(p.Replicas, x.Node)
		}
		out = append(out, p)
	}
	return out
}

func memberIDs(members []cluster.Node) (out []themis.NodeID) {
	for _, n := range members {
		out = append(out, n.ID)
	}
	return out
}

func controlIDs(members []cluster.Node) (out []themis.NodeID) {
	for _, n := range members {
		if n.Control != nil {
			out = append(out, n.ID)
		}
	}
	return out
}

func planAnswer(r client.InitRequest, f cluster.Founded) *initAnswer {
	return &initAnswer{Cluster: r.Name, Nodes: memberIDs(f.Nodes), Control: controlIDs(f.Nodes), Shards: placements(f.Shards)}
}

func (a *app) initAnswer(out *initAnswer, err error, verb string) error {
	if err != nil {
		return err
	}
	return a.print(out, func(w io.Writer, _ bool) {
		_, _ = fmt.Fprintf(w, "cluster %s %s\n\n", out.Cluster, verb)
		var rows [][]string
		for _, s := range out.Shards {
			rows = append(rows, []string{string(s.ID), string(s.Mode), fmt.Sprint(s.RF), ids(s.Replicas)})
		}
		columns(w, "SHARD MODE COPIES NODES", rows)
		_, _ = fmt.Fprintf(w, "\ncontrol plane: %s\n", ids(out.Control))
		if out.Context != "" {
			_, _ = fmt.Fprintf(w, "context: %s\n", out.Context)
		}
		if out.ClusterID != "" {
			_, _ = fmt.Fprintf(w, "next: themis-cli cluster health\n")
		}
	})
}

// remember writes a context for the new cluster, so that the next command finds it.
func (a *app) remember(name string, t client.Context) string {
	dir, err := client.UserContexts()
	if err != nil {
		a.say("# no context was written: %v", err)
		return ""
	}
	as, err := dir.SaveBeside(name, absolute(client.Context{Cluster: name, Endpoints: t.Endpoints, CA: t.CA, Cert: t.Cert, Key: t.Key}))
	if err != nil {
		a.say("# no context was written: %v", err)
		return ""
	}
	if as != name {
		a.say("# the context %s belongs to another cluster; this one's is %s", name, as)
	}
	return as
}
