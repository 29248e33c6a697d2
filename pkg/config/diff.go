package config

// Change is a setting that differs between two configurations.
type Change struct {
	Key    string `json:"key"`
	Old    string `json:"old"`
	New    string `json:"new"`
	Scope  Scope  `json:"scope"`
	Apply  Apply  `json:"apply"`
	Served bool   `json:"served"`
}

// Effect says in words what happens to the change when a configuration is applied to a cluster.
func (c Change) Effect() string {
	switch {
	case c.Apply == AtInit:
		return "can't be changed by a file once the cluster is made"
	case c.Scope == NodeLocal && c.Apply == Live:
		return "belongs to each node's file; taken over while it runs"
	case c.Scope == NodeLocal:
		return "belongs to each node's file; takes effect when the node is started again"
	case !c.Served:
		return "kept, without effect in this version"
	case c.Apply == AtRestart:
		return "takes effect when the nodes are started again"
	}
	return "takes effect at once"
}

// Diff lists what differs, in the order of the table. Where a value comes from makes no difference.
func Diff(before, after Config) []Change {
	var out []Change
	for _, k := range known.keys {
		if !k.top() {
			continue
		}
		if a, b := show(before.cells[k.Path].value), show(after.cells[k.Path].value); a != b {
			out = append(out, Change{k.Path, a, b, k.Scope, k.Apply, k.Served()})
		}
	}
	return out
}
