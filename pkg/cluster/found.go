package cluster

import (
	"cmp"
	"errors"
	"slices"

	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// Foundation is what a new cluster is asked to be.
type Foundation struct {
	Name         string
	Redundancy   string // MIRROR, or NONE with a replication factor of 1
	Nodes        []Node // as they describe themselves; Control has their control-plane addresses
	Shards       int
	ControlNodes int  // 1, 3 or 5; 0: 3 where there are 3 nodes, else 1
	External     bool // the control plane is an etcd of the operator's: no node is a member of it
	Policy       Policy
	Modes        map[themis.ShardID]themis.Mode // shards whose mode is not Policy.Mode
}

// Founded is the first state of its records, without ids and times.
type Founded struct {
	Meta   Meta
	Nodes  []Node
	Shards []Shard
}

// Found says what the records of the new cluster are, or everything that is impossible about it, with the arithmetic.
func Found(f Foundation) (Founded, error) {
	var data []Node
	var faults []error
	fault := func(code themis.Code, format string, args ...any) {
		faults = append(faults, themis.Errorf(code, format, args...))
	}
	seen := map[themis.NodeID]bool{}
	for _, n := range f.Nodes {
		if seen[n.ID] {
			fault(themis.InvalidArgument, "nodes: %s is named twice", n.ID)
		}
		seen[n.ID] = true
		if n.Role == RoleActive {
			data = append(data, n)
		}
	}
	if f.External && f.ControlNodes != 0 {
		fault(themis.InvalidArgument, "control_nodes %d: the control plane is an etcd of its own (control.mode external)", f.ControlNodes)
	}
	if f.ControlNodes == 0 {
		f.ControlNodes = 1
		if len(f.Nodes) >= 3 {
			f.ControlNodes = 3
		}
	}
	switch {
	case len(f.Nodes) == 0:
		fault(themis.InvalidArgument, "nodes: none")
	case f.Shards < 1 || f.Shards > routing.MaxShards:
		fault(themis.InvalidArgument, "shards %d: want 1 to %d", f.Shards, routing.MaxShards)
	case f.Policy.RF > len(data):
		fault(themis.InvalidArgument, "replication_factor %d needs %d nodes that store documents, there are %d of %d", f.Policy.RF, f.Policy.RF, len(data), len(f.Nodes))
	case f.ControlNodes != 1 && f.ControlNodes != 3 && f.ControlNodes != 5:
		fault(themis.InvalidArgument, "control_nodes %d: want 1, 3 or 5; an even number survives no more failures than the odd one below it", f.ControlNodes)
	case f.ControlNodes > len(f.Nodes):
		fault(themis.InvalidArgument, "control_nodes %d: there are %d nodes", f.ControlNodes, len(f.Nodes))
	case f.Redundancy == "NONE" && f.Policy.RF != 1:
		fault(themis.InvalidArgument, "mode NONE keeps one copy; replication_factor is %d", f.Policy.RF)
	case !slices.Contains(themis.Redundancies, f.Redundancy):
		fault(themis.InvalidArgument, "mode %s: want NONE or MIRROR", f.Redundancy)
	case f.Redundancy != "NONE" && f.Redundancy != "MIRROR":
		fault(themis.Unimplemented, "mode %s: this version serves MIRROR and NONE", f.Redundancy)
	}
	if err := errors.Join(faults...); err != nil {
		return Founded{}, err
	}
	out := Founded{Meta: Meta{Format: Format, Name: f.Name, Redundancy: f.Redundancy}, Nodes: slices.Clone(f.Nodes)}
	if f.External {
		f.ControlNodes = 0
	}
	chooseControl(out.Nodes, f.ControlNodes)
	for i := range f.Shards {
		s := Shard{Format: Format, ID: routing.ShardAt(i), Have: f.Policy}
		if m, ok := f.Modes[s.ID]; ok {
			s.Have.Mode = m
		}
		if s.Have.Mode == themis.Async || s.Have.RF == 1 {
			s.Have.K = 0
		}
		if err := s.Have.Check(); err != nil {
			return Founded{}, err
		}
		s.Want = s.Have
		for _, n := range spread(data, i, f.Policy.RF) {
			m := Member{Node: n.ID, Storage: n.Storage}
			s.Replicas = append(s.Replicas, Replica{Member: m, Class: Voter, Region: n.Region, Datacenter: n.Datacenter, Rack: n.Rack})
			s.ISR = append(s.ISR, m)
		}
		out.Shards = append(out.Shards, s)
	}
	return out, nil
}

// chooseControl keeps the control part of so many nodes: those that do nothing else first, then by id.
func chooseControl(nodes []Node, n int) {
	order := make([]int, len(nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		only := func(n Node) int {
			if n.Role == RoleController {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(only(nodes[a]), only(nodes[b])), cmp.Compare(nodes[a].ID, nodes[b].ID))
	})
	for _, i := range order[n:] {
		nodes[i].Control = nil
	}
}

// spread picks the nodes for the copies of the i-th shard: in turn, and in other racks than those before where there are any, of
// these in other datacenters.
func spread(nodes []Node, i, rf int) []Node {
	var out []Node
	for len(out) < rf {
		best, bestRack, bestDC := -1, 0, 0
		for k := range nodes {
			c := nodes[(i+k)%len(nodes)]
			if slices.ContainsFunc(out, func(n Node) bool { return n.ID == c.ID }) {
				continue
			}
			sameRack, sameDC := 0, 0
			for _, n := range out {
				if n.Datacenter == c.Datacenter {
					sameDC++
					if n.Rack == c.Rack {
						sameRack++
					}
				}
			}
			if best < 0 || cmp.Or(cmp.Compare(sameRack, bestRack), cmp.Compare(sameDC, bestDC)) < 0 {
				best, bestRack, bestDC = (i+k)%len(nodes), sameRack, sameDC
			}
		}
		out = append(out, nodes[best])
	}
	return out
}
