package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	controlGrowsTo = 3 // members of the control plane that joining nodes fill up to by themselves
	controlMost    = 5 // more members make every change slower, and no cluster safer
	membershipTime = 2 * time.Minute
)

// joinArgs is what `node join` asks for.
type joinArgs struct {
	Addr    string `json:"addr"`             // gRPC address of a node that runs and belongs to no cluster
	Control string `json:"control"`          // auto, yes or no: whether it becomes a member of the control plane; empty: auto
	Replace bool   `json:"replace"`          // its name is that of a member whose disk is lost
	By      string `json:"by,omitempty"`     // the operator, where a node passes the verb on
	Passed  bool   `json:"passed,omitempty"` // a node passed it on: it goes no further
}

// joinResult is what became of it, or what would.
type joinResult struct {
	Node         themis.NodeID   `json:"node"`
	Changed      bool            `json:"changed"` // false: it was a member already
	DryRun       bool            `json:"dry_run"` // nothing was changed; the rest is what would be
	Control      bool            `json:"control_member"`
	ControlNodes []themis.NodeID `json:"control_nodes"`
	Steps        []string        `json:"steps"` // in their order, for people
	Note         string          `json:"note"`
}

// act reads the arguments of a verb, does it, and writes its answer. A dry run goes the same way up to the first change.
func act[A, R any](ctx context.Context, req *nodev1.ActRequest, do func(ctx context.Context, a A, dry bool) (R, error)) (*nodev1.ActResponse, error) {
	var a A
	if err := json.Unmarshal(req.GetArgsJson(), &a); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "args: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, membershipTime)
	defer cancel()
	out, err := do(ctx, a, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &nodev1.ActResponse{ResultJson: asJSON(out)}, nil
}

// operator is who asked: by, where another node passes the question on.
func operator(ctx context.Context, by string) cluster.Actor {
	if p, ok := rpc.Peer(ctx); ok && (p.Kind != pki.KindNode || by == "") {
		return cluster.Actor{Kind: "operator", ID: p.Name(), Cert: p.Serial}
	}
	return cluster.Actor{Kind: "operator", ID: by}
}

// joinNode makes a node that runs and belongs to no cluster a member of this one. It is run by a control member for an operator;
// any other node passes it on. Repeated after a failure on the way it goes on; repeated when all is done it changes nothing. With
// dry it says what would be done, or why it may not be, and changes nothing.
func (n *Node) joinNode(ctx context.Context, a joinArgs, dry bool) (*joinResult, error) {
	if a.Control == "" {
		a.Control = "auto"
	}
	if !slices.Contains([]string{"auto", "yes", "no"}, a.Control) {
		return nil, themis.Errorf(themis.InvalidArgument, "control %q: want auto, yes or no", a.Control)
	}
	m, v, err := n.freshView(ctx)
	if err != nil {
		return nil, err
	}
	who := operator(ctx, a.By)
	if n.etcd.Load() == nil && n.embedded() {
		a.By, a.Passed = who.ID, true
		out := &joinResult{}
		return out, n.passOn(ctx, v, passed{verb: "node.join", args: a, dry: dry}, out)
	}
	release, err := n.oneAtATime(dry)
	if err != nil {
		return nil, err
	}
	defer release()
	x, inside, err := n.newcomer(ctx, a.Addr)
	if err != nil {
		return nil, err
	}
	j := &joining{n: n, m: m, view: v, args: a, node: x, inside: inside}
	out, err := j.run(ctx, dry)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", x.ID, err)
	}
	if out.Changed && !dry {
		n.event(cluster.Event{Actor: who, Action: "node_join", Subject: string(x.ID), Outcome: "done", Reason: out.Note, After: asJSON(out)})
	}
	return out, nil
}

// oneAtATime lets one node join or leave through this one. A dry run makes nobody wait.
func (n *Node) oneAtATime(dry bool) (release func(), err error) {
	if !n.membership.TryLock() {
		return nil, themis.Errorf(themis.Overloaded, "another node joins or leaves through %s just now", n.id.Node).Do("run the same command again in a while")
	}
	if dry {
		n.membership.Unlock()
		return func() {}, nil
	}
	return n.membership.Unlock, nil
}

// freshView is the map as the control plane has it now.
func (n *Node) freshView(ctx context.Context) (*control.Map, cluster.View, error) {
	m, v := n.m.Load(), cluster.View{}
	if m != nil {
		ctx, cancel := context.WithTimeout(ctx, controlPatience)
		defer cancel()
		var err error
		if v, err = m.View(ctx); err != nil {
			return nil, v, n.noControl(err)
		}
	}
	if v.Meta.ID == "" {
		return nil, v, n.noMap()
	}
	return m, v, nil
}

// passed is a verb that this node passes on.
type passed struct {
	verb string
	args any
	dry  bool
	not  themis.NodeID // a control member that can't do it; empty: each can
}

// passOn lets the first control member that answers do it.
func (n *Node) passOn(ctx context.Context, v cluster.View, what passed, out any) error {
	b, err := json.Marshal(what.args)
	if err != nil {
		return err
	}
	var faults []error
	for _, id := range v.ControlNodes() {
		if id == n.id.Node || id == what.not {
			continue
		}
		c, err := n.pool.Admin(ctx, v.Nodes[id].GRPC, id)
		if err != nil {
			return err
		}
		resp, err := c.Act(ctx, &nodev1.ActRequest{Verb: what.verb, ArgsJson: b, DryRun: what.dry})
		switch {
		case err == nil:
			return json.Unmarshal(resp.GetResultJson(), out)
		case themis.CodeOf(err) != themis.Unreachable:
			return err
		}
		faults = append(faults, err)
	}
	return themis.Errorf(themis.NoPrimary, "%s: no other member of the control plane answers: %w", what.verb, errors.Join(faults...)).Do("themis-cli cluster health")
}

// newcomer asks the node who it is, and once more at the address that it tells others, where it must prove it. inside says that it
// belongs to this cluster already.
func (n *Node) newcomer(ctx context.Context, addr string) (x cluster.Node, inside bool, err error) {
	found, err := n.describeAll(ctx, []string{addr})
	if err != nil {
		return x, false, err
	}
	x = found[0]
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := n.pool.Admin(ctx, x.GRPC, x.ID)
	if err != nil {
		return x, false, err
	}
	d, err := c.Describe(ctx, &nodev1.DescribeRequest{})
	for until := time.Now().Add(rpc.RefusedAgain); themis.CodeOf(err) == themis.Unreachable && time.Now().Before(until) && ctx.Err() == nil; {
		time.Sleep(rpc.RefusedAgain / 20) // it was not reached before it ran, which is told again for a while
		d, err = c.Describe(ctx, &nodev1.DescribeRequest{})
	}
	switch {
	case err != nil:
		return x, false, themis.Errorf(themis.InvalidArgument, "%s says that it is reached at %s: %w", x.ID, x.GRPC, err).Do("set node.advertise_grpc on %s", x.ID)
	case d.GetStorageId() != string(x.Storage):
		return x, false, themis.Errorf(themis.InvalidArgument, "%s answers at %s, but with another disk at %s, where it says it is reached", x.ID, addr, x.GRPC).Do("set node.advertise_grpc on %s", x.ID)
	}
	return x, d.GetClusterId() != "", nil
}

// joining is one node on its way in.
type joining struct {
	n      *Node
	m      *control.Map
	view   cluster.View
	args   joinArgs
	node   cluster.Node // as it describes itself, with what it would be in the control plane
	inside bool
}

// joinPlan is what is to be done with a node that would join.
type joinPlan struct {
	member   bool          // nothing: it is a member already
	fresh    bool          // the map has no record of it, or it doesn't know yet where it belongs
	replaces *cluster.Node // the member whose disk is lost, and whose name it has; nil: none
	control  bool          // it becomes a member of the control plane
}

// plan decides, or refuses, and changes nothing but the view, which becomes what it will be after a disk is replaced.
func (j *joining) plan(ctx context.Context) (p joinPlan, err error) {
	old, known := j.view.Nodes[j.node.ID]
	if known && old.Storage != j.node.Storage {
		if !j.args.Replace {
			return p, themis.Errorf(themis.RefusedUnsafe, "a member with disk %s has this name, the disk of the newcomer is %s", old.Storage, j.node.Storage).
				Do("themis-cli node remove %s; where its copies can't be made anew without it: themis-cli node join %s --replace", old.ID, j.args.Addr)
		}
		if err := mayReplace(j.view, old); err != nil {
			return p, err
		}
		p.replaces = &old
		j.view.Nodes[j.node.ID] = j.record(old.Revision)
	}
	p.fresh = !known || !j.inside
	unfinished := p.replaces == nil && j.unfinished(ctx)
	if !p.fresh && p.replaces == nil && (old.Control != nil || j.args.Control != "yes" && !unfinished) {
		return joinPlan{member: true, control: old.Control != nil}, nil
	}
	p.control, err = j.wantsControl(unfinished)
	return p, err
}

// record is the newcomer's record at first: without a place in the control plane.
func (j *joining) record(at themis.Revision) cluster.Node {
	rec := j.node
	rec.Control, rec.Joined, rec.Revision = nil, time.Now().UTC(), at
	return rec
}

// run carries out what plan decided; with dry it only tells it.
func (j *joining) run(ctx context.Context, dry bool) (*joinResult, error) {
	before := j.view.ControlNodes()
	p, err := j.plan(ctx)
	if err != nil {
		return nil, err
	}
	out := &joinResult{Node: j.node.ID, DryRun: dry, Changed: !p.member, Control: p.control, ControlNodes: j.view.ControlNodes(), Steps: []string{}}
	if p.member {
		out.Note = "it was a member already"
		return out, nil
	}
	if p.control {
		out.ControlNodes = append(out.ControlNodes, j.node.ID)
		slices.Sort(out.ControlNodes)
	}
	out.Steps, out.Note = j.steps(p, before, out.ControlNodes), j.note(p, len(out.ControlNodes))
	if dry {
		return out, nil
	}
	return out, j.carryOut(ctx, p)
}

func (j *joining) carryOut(ctx context.Context, p joinPlan) (err error) {
	if p.replaces != nil {
		if err := j.replaceDisk(ctx, *p.replaces); err != nil {
			return err
		}
	}
	rec, err := j.m.RegisterNode(ctx, j.record(0))
	if err != nil {
		return err
	}
	if p.control {
		rec, err = j.intoControl(ctx, rec)
	} else {
		err = j.bootstrap(ctx, nil, nil)
	}
	if err != nil {
		return err
	}
	return j.awaitAlive(ctx, rec)
}

// steps are what is done, with the arithmetic of the control plane and of the copies that are missing.
func (j *joining) steps(p joinPlan, before, control []themis.NodeID) []string {
	var out []string
	switch {
	case p.replaces != nil:
		out = append(out, fmt.Sprintf("disk %s takes the place of disk %s, which is given up for good", j.node.Storage, p.replaces.Storage))
	case p.fresh:
		out = append(out, fmt.Sprintf("%s is recorded as a member: disk %s, reached at %s", j.node.ID, j.node.Storage, j.node.GRPC))
	}
	if p.control {
		out = append(out, fmt.Sprintf("it becomes a member of the control plane: %s, then %s", quorumText(len(before)), quorumText(len(control))))
	}
	if p.replaces == nil && !p.fresh {
		return out
	}
	return append(out, copiesText(j.view, j.node))
}

// note is what an operator should know besides.
func (j *joining) note(p joinPlan, control int) string {
	text := ""
	if p.replaces != nil {
		text = "its disk was replaced; "
	}
	if p.replaces != nil || p.fresh {
		text += "missing copies are made on it; copies that other nodes have are not moved to it"
	} else if p.control {
		text += "it takes a part in the control plane now"
	}
	return text + j.evenNote(control)
}

// quorumText is the arithmetic of a control plane.
func quorumText(members int) string {
	most := members - (members/2 + 1)
	if members == 1 {
		return "1 member, which may not fail"
	}
	return fmt.Sprintf("%d members of which %d must agree, so %d may fail", members, members/2+1, most)
}

// copiesText says which copies are missing, and so are made on x.
func copiesText(v cluster.View, x cluster.Node) string {
	if x.Role == cluster.RoleController {
		return "it stores no documents (node.role controller), so no copies are made on it"
	}
	var list []string
	for _, id := range v.ShardIDs() {
		s, have := v.Shards[id], 0
		for _, r := range s.Replicas {
			if _, failed := v.Failed[r.Node]; !failed && r.Node != x.ID {
				have++
			}
		}
		if have < s.Want.RF {
			list = append(list, fmt.Sprintf("%s has %d of %d", id, have, s.Want.RF))
		}
	}
	if len(list) == 0 {
		return "no shard lacks a copy, so none is made on it; those that other nodes have stay there"
	}
	return "missing copies are made on it: " + strings.Join(list, ", ")
}

// evenNote warns of a control plane with an even number of members.
func (j *joining) evenNote(control int) string {
	if !j.n.embedded() || control%2 != 0 {
		return ""
	}
	return fmt.Sprintf("; the control plane has %d members and needs %d of them, so it is no safer than with %d: one more should join", control, control/2+1, control-1)
}

// unfinished says whether the node is a member of the control plane that its record doesn't name yet.
func (j *joining) unfinished(ctx context.Context) bool {
	_, ok := j.controlMember(ctx)
	return ok
}

func (j *joining) controlMember(ctx context.Context) (control.Member, bool) {
	s := j.n.etcd.Load()
	if s == nil {
		return control.Member{}, false
	}
	members, err := s.Members(ctx)
	i := slices.IndexFunc(members, func(m control.Member) bool { return m.PeerURL == j.node.Control.Peer })
	if err != nil || i < 0 {
		return control.Member{}, false
	}
	return members[i], true
}

// wantsControl says whether the node becomes a member of the control plane.
func (j *joining) wantsControl(unfinished bool) (bool, error) {
	if !j.n.embedded() {
		if j.args.Control == "yes" {
			return false, themis.Errorf(themis.InvalidArgument, "control yes: the control plane of this cluster is an etcd of its own (control.mode external)")
		}
		return false, nil
	}
	if unfinished {
		return true, nil
	}
	have := len(j.view.ControlNodes())
	wants := j.args.Control == "yes" || j.args.Control == "auto" && (have < controlGrowsTo || j.node.Role == cluster.RoleController && have < controlMost)
	switch {
	case wants && have >= controlMost:
		return false, themis.Errorf(themis.RefusedUnsafe, "control yes: the control plane has %d members, %d are the most", have, controlMost)
	}
	return wants && (!j.inside || j.args.Control == "yes"), nil
}

// intoControl makes the node a member of the control plane: first one that only learns, then one that votes.
func (j *joining) intoControl(ctx context.Context, rec cluster.Node) (cluster.Node, error) {
	s := j.n.etcd.Load()
	at, found := j.controlMember(ctx)
	if !found || at.State != control.MemberVoter {
		id, initial, err := s.AddLearner(ctx, string(rec.ID), j.node.Control.Peer)
		if err != nil {
			return rec, err
		}
		at.ID = id
		if err := j.bootstrap(ctx, initial, []string{j.node.Control.Client}); err != nil {
			if c := themis.CodeOf(err); c != themis.OutcomeUnknown && c != themis.Deadline { // it surely never started
				err = errors.Join(err, s.RemoveMember(ctx, id))
			}
			return rec, err
		}
		if err := s.Promote(ctx, id); err != nil {
			return rec, err
		}
	}
	for {
		rec.Control = &cluster.ControlMember{Peer: j.node.Control.Peer, Client: j.node.Control.Client, ID: at.ID}
		done, err := j.m.UpdateNode(ctx, rec)
		if !errors.Is(err, control.ErrStale) {
			return done, err
		}
		v, err := j.m.View(ctx) // a shard has just got a copy there
		if err != nil {
			return rec, err
		}
		if rec = v.Nodes[rec.ID]; rec.Storage != j.node.Storage {
			return rec, themis.Errorf(themis.StalePlan, "it was removed meanwhile")
		}
	}
}

// bootstrap tells the node where it belongs; initial is given to those that become control members.
func (j *joining) bootstrap(ctx context.Context, initial map[string]string, more []string) error {
	own := j.n.joined()
	var peers []string
	for _, name := range slices.Sorted(maps.Keys(initial)) {
		peers = append(peers, name+"="+initial[name])
	}
	endpoints := controlEndpoints(j.view)
	if len(endpoints) == 0 {
		endpoints = own.Endpoints
	}
	c, err := j.n.pool.Admin(ctx, j.node.GRPC, j.node.ID)
	if err != nil {
		return err
	}
	_, err = c.Bootstrap(ctx, &nodev1.BootstrapRequest{
		ClusterId: string(own.ID), ClusterName: own.Name, ControlMember: initial != nil, Existing: initial != nil,
		InitialCluster: strings.Join(peers, ","), ControlEndpoints: slices.Concat(endpoints, more),
	})
	return err
}

// awaitAlive waits until the node's own heartbeat is in the control plane, and this node's map shows it.
func (j *joining) awaitAlive(ctx context.Context, rec cluster.Node) error {
	for {
		changed := j.n.changed.next()
		if v, ok := j.n.latest(); ok && v.Alive[rec.ID].Storage == rec.Storage && v.Nodes[rec.ID].Storage == rec.Storage {
			return nil
		}
		select {
		case <-ctx.Done():
			return themis.Errorf(themis.Deadline, "it is registered, but its heartbeat has not come: %w", ctx.Err()).Do("see its log, and run the same command again")
		case <-changed:
		}
	}
}

// replaceDisk gives the name of a member whose disk is lost to the newcomer. Its copies count as blank until they are whole again
// (design, promise 8).
func (j *joining) replaceDisk(ctx context.Context, old cluster.Node) error {
	if s := j.n.etcd.Load(); old.Control != nil && s != nil {
		if err := removeControl(ctx, s, old); err != nil {
			return err
		}
	}
	_, err := j.m.UpdateNode(ctx, j.record(old.Revision))
	return err
}

// mayReplace refuses where the disk is not lost, or may be the only one with a shard's newest writes.
func mayReplace(v cluster.View, old cluster.Node) error {
	if a, ok := v.Alive[old.ID]; ok && a.Storage == old.Storage {
		return themis.Errorf(themis.RefusedUnsafe, "the member with disk %s sends heartbeats: its disk is not lost", old.Storage).Do("stop that process first")
	}
	var alone []string
	for _, id := range v.ShardsOn(old.ID) {
		if s := v.Shards[id]; s.Epoch > 0 && (s.Primary.IsZero() || s.Primary.Node == old.ID) {
			alone = append(alone, fmt.Sprintf("%s (in sync: %s)", id, membersText(s.ISR)))
		}
	}
	if len(alone) > 0 {
		return themis.Errorf(themis.RefusedUnsafe, "no other node leads %s: the disk that is to be given up may be the only one with its writes", strings.Join(alone, ", ")).
			Do("themis-cli cluster health; bring the old disk back, or wait until another node leads")
	}
	return nil
}

func membersText(ms []cluster.Member) string {
	var out []string
	for _, m := range ms {
		out = append(out, string(m.Node))
	}
	return strings.Join(out, ", ")
}

// controlEndpoints are the client URLs of the embedded control plane's members.
func controlEndpoints(v cluster.View) []string {
	var out []string
	for _, id := range v.ControlNodes() {
		if u := v.Nodes[id].Control.Client; u != "" {
			out = append(out, u)
		}
	}
	return out
}

// learnControl remembers where the control plane and the nodes are now, so that this node finds it after members came and went: at once in the
// client, unless that asks the member in this process, and in node.json for the next start.
func (n *Node) learnControl(v cluster.View, kv *control.Etcd) {
	now, known := controlEndpoints(v), n.known(v)
	n.mu.Lock()
	defer n.mu.Unlock()
	j := n.id.Joined
	if !n.embedded() || len(now) == 0 || j == nil || slices.Equal(now, j.Endpoints) && slices.Equal(known, j.Nodes) {
		return
	}
	next, id := *j, n.id
	next.Endpoints, next.Nodes, id.Joined = now, known, &next
	if err := id.write(n.cfg.Node.DataDir); err != nil {
		n.log.Warn("new members of the control plane are not remembered", "err", err)
		return
	}
	n.id.Joined = &next
	if !j.ControlMember {
		kv.SetEndpoints(endpointsOf(now))
	}
}
