package health

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// builder is one Build at work.
type builder struct {
	view    cluster.View
	states  map[themis.NodeID]Observed
	control ControlState
	now     time.Time
	r       Report
	hurt    map[themis.ShardID]bool // shards with a finding that degrades
}

// Build makes the report. states holds what nodes answered of themselves; a node that isn't in it was not asked. Nothing that is
// passed in is changed, and the report shares no slice or map with it.
func Build(view cluster.View, states map[themis.NodeID]Observed, control ControlState, now time.Time) Report {
	b := &builder{view: view, states: states, control: control, now: now, hurt: map[themis.ShardID]bool{}}
	b.r = Report{
		Cluster: view.Meta.Name, Time: now.UTC(), Revision: view.Revision, ConfigVersion: view.Settings.Version,
		Nodes: []NodeReport{}, Shards: []ShardReport{}, Findings: []Finding{},
	}
	var shares map[themis.ShardID]float64
	if view.Routing != nil {
		b.r.RoutingVersion = ptr(view.Routing.Version())
		shares = view.Routing.Shares()
	}
	b.controlPlane()
	for _, id := range b.nodeIDs() {
		b.r.Nodes = append(b.r.Nodes, b.node(view.Nodes[id]))
	}
	for _, id := range view.ShardIDs() {
		s := b.shard(view.Shards[id])
		if view.Routing != nil {
			s.TokenShare = ptr(shares[id])
		}
		b.r.Shards = append(b.r.Shards, s)
	}
	b.whole()
	b.finish()
	return b.r
}

func ptr[T any](v T) *T { return &v }

// known is a pointer to v where ok, else nil: a number or null.
func known[T any](v T, ok bool) *T {
	if !ok {
		return nil
	}
	return &v
}

func millis(d time.Duration) *int64 { return ptr(max(0, d.Milliseconds())) }

func when(t time.Time) *time.Time { return known(t.UTC(), !t.IsZero()) }

func (b *builder) nodeIDs() []themis.NodeID {
	ids := b.view.NodeIDs()
	slices.SortFunc(ids, func(x, y themis.NodeID) int { return natural(string(x), string(y)) })
	return ids
}

// fresh is what the node said of itself, as long as that may stand for the present; else nil.
func (b *builder) fresh(node themis.NodeID) *NodeState {
	o := b.states[node]
	if _, failed := b.view.Failed[node]; failed || o.State == nil || o.At.IsZero() || b.now.Sub(o.At) > FreshFor {
		return nil
	}
	return o.State
}

// told is how old what the node said of itself is; nil: it said nothing.
func (b *builder) told(node themis.NodeID) *int64 {
	o := b.states[node]
	if o.State == nil || o.At.IsZero() {
		return nil
	}
	return millis(b.now.Sub(o.At))
}

// age is how old the node's newest word is, to whomever it came: here, to the controller now or before, which asks all the time, to those that hear
// it as the controller, to the primaries that it follows. nil: it was never heard.
func (b *builder) age(node themis.NodeID) *int64 {
	age := b.told(node)
	for id := range b.states {
		st := b.fresh(id)
		if st == nil {
			continue
		}
		for _, ms := range st.heard(node, b.view.Controller) {
			if ms += *b.told(id); age == nil || ms < *age {
				age = ptr(ms)
			}
		}
	}
	return age
}

// heard is how many milliseconds ago this node heard the other one, in each way that it knows of.
func (st *NodeState) heard(node themis.NodeID, as cluster.Controller) (ms []int64) {
	if x, ok := st.Heard[node]; ok {
		ms = append(ms, x)
	}
	if c := st.Controller; c != nil && as.Node == node && as.Term == c.Term {
		ms = append(ms, c.AgeMs)
	}
	for _, l := range st.Replicas {
		for _, f := range l.Followers {
			if f.Node == node && f.AckAgeMs != nil {
				ms = append(ms, *f.AckAgeMs)
			}
		}
	}
	return ms
}

// local is the copy as its own node sees it, where that is known, and of that very disk.
func (b *builder) local(m cluster.Member, shard themis.ShardID) *LocalReplica {
	st := b.fresh(m.Node)
	if st == nil {
		return nil
	}
	return st.Replica(m, shard)
}

// place is what a finding is about.
type place struct {
	shard themis.ShardID
	node  themis.NodeID
	name  string // where it is neither
}

func (p place) String() string {
	switch {
	case p.shard != "" && p.node != "":
		return string(p.shard) + "/" + string(p.node)
	case p.shard != "":
		return string(p.shard)
	case p.node != "":
		return string(p.node)
	}
	return cmp.Or(p.name, "cluster")
}

// add makes a finding from its row of the table. severity "" is the row's.
func (b *builder) add(code Code, severity Severity, at place, since time.Time, v values) {
	row, ok := code.Check()
	if !ok {
		panic("health: no row for finding " + string(code)) // the table is written beside the codes
	}
	if row.Degrades {
		b.hurt[at.shard] = true
	}
	if at.shard != "" {
		v["shard"] = string(at.shard)
	}
	if at.node != "" {
		v["node"] = string(at.node)
	}
	b.r.Findings = append(b.r.Findings, Finding{
		Code: code, Severity: cmp.Or(severity, row.Severity), Subject: at.String(), Title: row.Title, Since: when(since),
		Why: fill(row.Why, v), Evidence: v, Fix: fill(row.Fix, v),
	})
}

func (b *builder) controlPlane() {
	c := b.control
	b.r.Control = ControlReport{Mode: c.Mode, Leader: c.Leader, Controller: b.view.Controller.Node, Members: append([]ControlMember{}, c.Members...)}
	slices.SortFunc(b.r.Control.Members, func(x, y ControlMember) int { return natural(string(x.Node), string(y.Node)) })
	if c.Quorum != nil {
		b.r.Control.Quorum = ptr(*c.Quorum)
	}
	up, voters := 0, 0
	var down, all []themis.NodeID
	for _, m := range b.r.Control.Members {
		switch m.State {
		case Voter:
			up, voters = up+1, voters+1
			all = append(all, m.Node)
		case Down:
			voters++
			all = append(all, m.Node)
			down = append(down, m.Node)
		}
	}
	need := voters/2 + 1
	count := func(n int) *int64 { return known(int64(n), voters > 0) }
	switch {
	case c.Quorum == nil:
		b.add(StateUnknown, "", place{name: "control"}, time.Time{}, values{"what": "whether the control plane has a quorum", "cause": "none of its members answered"})
	case !*c.Quorum && up >= need && b.now.Sub(c.Since) < ElectingFor:
		b.r.Control.Quorum = nil
		b.add(ControlElecting, "", place{name: "control"}, c.Since, values{"up": up, "voters": voters, "need": need})
	case !*c.Quorum:
		b.add(ControlNoQuorum, "", place{name: "control"}, c.Since, values{"up": count(up), "voters": count(voters), "need": count(need)})
	}
	for _, id := range down {
		b.add(ControlMemberDown, "", place{node: id}, time.Time{}, values{"up": up, "voters": voters, "need": need, "spare": max(0, up-need)})
	}
	if voters == 1 && c.Mode != "external" {
		b.add(ControlSingleMember, "", place{name: "control"}, time.Time{}, values{"node": string(all[0])})
	}
}

// nodeState is the node's state, and why it is SUSPECT.
func (b *builder) nodeState(n cluster.Node) (state cluster.State, why string) {
	o, asked := b.states[n.ID]
	asked = asked && (o.State != nil || o.Err != "")
	_, failed := b.view.Failed[n.ID]
	switch {
	case failed:
		return cluster.FailedState, ""
	case asked && o.Err != "" && o.State != nil && o.State.Stopping:
		return cluster.Suspect, "it was told to stop; " + o.Err
	case asked && o.Err != "":
		return cluster.Suspect, o.Err
	case asked && b.now.Sub(o.At) > FreshFor:
		return cluster.Suspect, "nothing was heard of it since"
	case asked && n.Draining:
		return cluster.Draining, ""
	case asked:
		return cluster.Up, ""
	}
	state, _ = b.view.NodeState(n.ID)
	return state, "its heartbeat in the control plane has ended, and nobody asked it"
}

func (b *builder) node(n cluster.Node) NodeReport {
	alive, beats := b.view.Alive[n.ID]
	st := b.fresh(n.ID)
	state, why := b.nodeState(n)
	out := NodeReport{
		ID: n.ID, Role: n.Role, State: state, StorageID: n.Storage, LastHeartbeat: b.age(n.ID),
		GRPC: n.GRPC, HTTP: n.HTTP, Region: n.Region, Datacenter: n.Datacenter, Rack: n.Rack,
		Primaries: len(b.view.ShardsLedBy(n.ID)), Copies: len(b.view.ShardsOn(n.ID)),
	}
	if last := b.states[n.ID].State; last != nil {
		out.Version = last.Version // it holds until the node says another
	}
	if beats {
		out.Version = alive.Version // its disk changes, and the record does not say how old that is
	}
	if st != nil {
		out.Version, out.UptimeMs = st.Version, ptr(st.UptimeMs)
		out.DiskUsed, out.DiskFree, out.Disk = copied(st.DiskUsed), copied(st.DiskFree), st.Disk
	}
	b.nodeFindings(n, out, why)
	if st != nil {
		if !beats && state != cluster.FailedState {
			b.add(NodeCut, "", place{node: n.ID}, time.Time{}, values{})
		}
		b.stateFindings(n.ID, *st)
	}
	return out
}

func (b *builder) nodeFindings(n cluster.Node, r NodeReport, why string) {
	switch r.State {
	case cluster.FailedState:
		f := b.view.Failed[n.ID]
		b.add(NodeFailed, "", place{node: n.ID}, f.Since, values{"cause": f.Why, "copies": r.Copies, "led": r.Primaries})
	case cluster.Suspect:
		heard := "when it was heard last is not known here"
		if r.LastHeartbeat != nil {
			heard = "its last word is " + duration(time.Duration(*r.LastHeartbeat)*time.Millisecond) + " old"
		}
		b.add(NodeSuspect, "", place{node: n.ID}, b.states[n.ID].Since, values{"cause": why, "heard": heard, "age_ms": r.LastHeartbeat})
	case cluster.Draining:
		b.add(NodeDraining, "", place{node: n.ID}, time.Time{}, values{"copies": r.Copies, "led": r.Primaries})
	}
	if b.view.Alive[n.ID].Stopping != nil {
		b.add(NodeStopping, "", place{node: n.ID}, time.Time{}, values{"copies": r.Copies, "led": r.Primaries})
	}
	if o := b.states[n.ID]; o.State == nil && o.Err == "" && r.State != cluster.FailedState && r.State != cluster.Suspect {
		b.add(StateUnknown, "", place{node: n.ID}, time.Time{}, values{"what": "what " + string(n.ID) + " knows of itself", "cause": "it was not asked"})
	}
}

// disks adds a finding for each disk that is almost full, at the first of the nodes that share it.
func (b *builder) disks() {
	type disk struct{ host, name string }
	told := map[disk]bool{}
	for _, n := range b.r.Nodes {
		if n.DiskUsed == nil || *n.DiskUsed <= DiskWarnRatio {
			continue
		}
		nodes, d := []string{string(n.ID)}, disk{hostOf(n.GRPC), b.diskName(n.ID)}
		if d.name != "" {
			if told[d] {
				continue
			}
			told[d] = true
			nodes = nil
			for _, other := range b.r.Nodes {
				if (disk{hostOf(other.GRPC), b.diskName(other.ID)}) == d {
					nodes = append(nodes, string(other.ID))
				}
			}
		}
		severity := Warning
		if *n.DiskUsed > DiskCriticalRatio {
			severity = CriticalSv
		}
		b.add(DiskAlmostFull, severity, place{node: n.ID}, time.Time{}, values{
			"nodes": strings.Join(nodes, ", "), "percent": percent(*n.DiskUsed), "warn": percent(DiskWarnRatio), "critical": percent(DiskCriticalRatio),
		})
	}
}

func (b *builder) diskName(node themis.NodeID) string {
	if st := b.states[node].State; st != nil {
		return st.Disk
	}
	return ""
}

// hostOf is an address without its port.
func hostOf(addr string) string { return addr[:max(0, strings.LastIndexByte(addr, ':'))] }

// percent is a ratio as a percentage with one digit behind the point.
func percent(ratio float64) float64 { return float64(int64(ratio*1000+0.5)) / 10 }

// stateFindings are those that only the node itself can tell.
func (b *builder) stateFindings(id themis.NodeID, st NodeState) {
	if st.CertExpires != nil {
		left := st.CertExpires.Sub(b.now)
		if left < CertWarn {
			severity := Warning
			if left < CertCritical {
				severity = CriticalSv
			}
			b.add(CertExpires, severity, place{node: id}, time.Time{}, values{"expires": st.CertExpires.UTC(), "left": duration(left)})
		}
	}
	if f := st.DiskFull; f != nil {
		b.add(DiskIsFull, "", place{node: id}, f.Since, values{"dir": f.Dir, "free": int64(f.Free), "reserve": int64(f.Reserve)})
	}
	if d := st.DiskSlow; d != nil {
		b.add(DiskIsSlow, "", place{node: id}, time.Time{}, values{"dir": d.Dir, "sync_ms": d.SyncMs, "syncs": d.Syncs, "limit_ms": SlowSync.Milliseconds()})
	}
	if a := st.DiskAge; a != nil {
		b.add(DiskAgeStuck, "", place{node: id}, a.Since, values{"dir": a.Dir, "for": duration(b.now.Sub(a.Since)), "cause": a.Why})
	}
	if st.PlainHTTP == "full" {
		b.add(PlainHTTP, "", place{node: id}, time.Time{}, values{"mode": "everything"})
	}
	for _, w := range st.Warnings {
		b.add(ConfigWarning, "", place{node: id}, time.Time{}, values{"warning": w})
	}
	for _, c := range st.Unused {
		b.add(UnusedCopyKept, "", place{shard: c.Shard, node: id}, c.Since, values{"bytes": int64(c.Bytes), "kept": c.Kept})
	}
	for _, l := range st.Replicas {
		if l.Rescued > 0 {
			b.add(RescuedEntries, "", place{shard: l.Shard, node: id}, time.Time{}, values{"entries": l.Rescued})
		}
		if l.Damage != "" && l.Broken == "" {
			b.add(LogDamaged, "", place{shard: l.Shard, node: id}, time.Time{}, values{"cause": l.Damage})
		}
		if c := l.CutTail; c != nil {
			b.add(TailCut, "", place{shard: l.Shard, node: id}, c.At, values{"entries": c.Entries, "bytes": int64(c.Bytes), "from": uint64(c.From), "cause": c.Why})
		}
	}
}

// whole adds what only the cluster as a whole shows.
func (b *builder) whole() {
	if len(b.r.Shards) == 0 {
		b.add(NoShards, "", place{}, time.Time{}, values{"nodes": len(b.r.Nodes)})
	}
	var versions []string
	for _, n := range b.r.Nodes {
		if n.Version != "" && !slices.Contains(versions, n.Version) {
			versions = append(versions, n.Version)
		}
	}
	if len(versions) > 1 {
		var words []string
		for _, n := range b.r.Nodes {
			words = append(words, fmt.Sprintf("%s runs %s", n.ID, cmp.Or(n.Version, "an unknown version")))
		}
		b.add(VersionsMixed, "", place{}, time.Time{}, values{"versions": strings.Join(words, ", ")})
	}
	b.skew()
	b.disks()
}

func (b *builder) skew() {
	var largest ShardReport
	sum := int64(0)
	for _, s := range b.r.Shards {
		if s.Bytes == nil {
			return
		}
		sum += int64(*s.Bytes)
		if largest.Bytes == nil || *s.Bytes > *largest.Bytes {
			largest = s
		}
	}
	if len(b.r.Shards) < 2 || *largest.Bytes < SkewMinBytes {
		return
	}
	mean := float64(sum) / float64(len(b.r.Shards))
	if over := float64(*largest.Bytes)/mean - 1; over > SkewWarnRatio {
		b.add(ShardSkew, "", place{}, time.Time{}, values{
			"largest": string(largest.ID), "largest_bytes": int64(*largest.Bytes), "mean_bytes": int64(mean), "percent": percent(over), "limit": percent(SkewWarnRatio),
		})
	}
}

// finish sorts the findings and sums up.
func (b *builder) finish() {
	rank := func(f Finding) int {
		return slices.IndexFunc(checks, func(c Check) bool { return c.Code == f.Code })
	}
	severity := []Severity{CriticalSv, Warning, Info}
	slices.SortStableFunc(b.r.Findings, func(x, y Finding) int {
		return cmp.Or(
			cmp.Compare(slices.Index(severity, x.Severity), slices.Index(severity, y.Severity)),
			cmp.Compare(rank(x), rank(y)),
			natural(x.Subject, y.Subject),
		)
	})
	b.r.Status = Healthy
	for _, f := range b.r.Findings {
		if row, _ := f.Code.Check(); row.Degrades {
			b.r.Status = Degraded
		}
	}
	if q := b.r.Control.Quorum; q != nil && !*q {
		b.r.Status = Critical
	}
	for i := range b.r.Shards {
		if b.r.Shards[i].State == ShardUnavailable {
			b.r.Status = Critical
		}
	}
}

// natural orders text so that node-2 stands before node-10.
func natural(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da == "" || db == "" {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		x, y := strings.TrimLeft(da, "0"), strings.TrimLeft(db, "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y), cmp.Compare(len(da), len(db))); c != 0 {
			return c
		}
		a, b = a[len(da):], b[len(db):]
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) string { return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))] }
