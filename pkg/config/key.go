package config

import (
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Type is what values a key takes.
type Type string

// The types. Lists of objects have their fields as keys of their own: "wal.directories" and "wal.directories[].path".
const (
	Bool    Type = "bool"
	Int     Type = "int"
	Float   Type = "float"
	Millis  Type = "ms"     // whole milliseconds: 10, or a duration: 10ms, 5s
	Text    Type = "text"   // any text
	Path    Type = "path"   // of a file or directory
	Addr    Type = "addr"   // host:port; an empty host is every interface, port 0 picks a free one
	Enum    Type = "enum"   // one of the names in Range, in any case
	Mode    Type = "mode"   // sync, semi_sync, async, hybrid and the other names of these (C-22)
	Name    Type = "name"   // a node's name: a DNS label
	Shard   Type = "shard"  // shard-1 and the other forms of C-04
	Bound   Type = "bound"  // end of a range of keys: a date, a whole number, or null for no end
	Texts   Type = "texts"  // list of texts
	Shards  Type = "shards" // list of shards
	Map     Type = "map"    // names to texts
	Objects Type = "list"   // list of objects
)

// Scope says where a value lives.
type Scope string

// The scopes. Node-local values come from the node's file, environment and flags; cluster-wide ones, once applied, from
// the control plane.
const (
	NodeLocal   Scope = "node"
	ClusterWide Scope = "cluster"
)

// Apply says when a changed value takes effect.
type Apply string

// When a change takes effect.
const (
	Live      Apply = "live"    // at once
	AtRestart Apply = "restart" // when the node is started again
	AtInit    Apply = "init"    // only when a cluster is made
)

// Key is one row of the table of all keys.
type Key struct {
	Path     string
	Type     Type
	Default  string   // as text; lists are empty
	Range    string   // "1..64", "1.." or "a|b|c"; empty: whatever the type allows
	Required bool     // a field that every object of its list must have
	Aliases  []string // other paths for the same setting
	Source   string   // the struct-style name it had before it had a path; accepted too
	Meaning  string

	File    string // the example file where it stands
	Scope   Scope
	Apply   Apply
	Unready bool // accepted and checked, but this version doesn't act on it
}

// Served says whether this version acts on the key.
func (k Key) Served() bool { return !k.Unready }

// Env is the environment variable that sets the key; empty for fields of objects.
func (k Key) Env() string {
	if strings.Contains(k.Path, "[]") {
		return ""
	}
	return "THEMIS_" + strings.ToUpper(strings.ReplaceAll(k.Path, ".", "_"))
}

// Flag is the command-line flag that sets the key, without dashes in front: node.data_dir is data-dir, control.mode is
// control-mode. Empty for fields of objects.
func (k Key) Flag() string {
	if strings.Contains(k.Path, "[]") {
		return ""
	}
	return strings.NewReplacer(".", "-", "_", "-").Replace(strings.TrimPrefix(k.Path, "node."))
}

// Want describes the values that the key takes: "a whole number, 1 to 64".
func (k Key) Want() string {
	what := map[Type]string{
		Bool: "true or false", Int: "a whole number", Float: "a number", Millis: "milliseconds, or a duration such as 10ms",
		Text: "text", Path: "a path", Addr: "host:port", Name: "a node name such as node-1", Shard: "a shard such as shard-1",
		Mode: "sync, semi_sync, async or hybrid", Bound: "a date such as 2024-12-31, a whole number, or null", Texts: "a list of texts",
		Shards: "a list of shards such as [shard-1, shard-2]", Map: "a map from names to texts", Objects: "a list",
	}[k.Type]
	switch names := k.Names(); {
	case len(names) > 0:
		return "one of " + strings.Join(names, ", ")
	case k.Range == "":
		return what
	}
	lo, hi, _ := strings.Cut(k.Range, "..")
	switch {
	case lo == "":
		return what + ", at most " + hi
	case hi == "":
		return what + ", at least " + lo
	}
	return what + ", " + lo + " to " + hi
}

// Names are the values of an Enum.
func (k Key) Names() []string {
	if k.Type != Enum {
		return nil
	}
	return strings.Split(k.Range, "|")
}

// inRange says whether a number is allowed. What isn't a number is in no range with an upper end.
func (k Key) inRange(v float64) bool {
	if k.Range == "" {
		return true
	}
	lo, hi, _ := strings.Cut(k.Range, "..")
	if n, err := strconv.ParseFloat(lo, 64); lo != "" && (err != nil || v < n) {
		return false
	}
	n, err := strconv.ParseFloat(hi, 64)
	return hi == "" || err == nil && v <= n
}

// names are all the ways to write the key in a file.
func (k Key) names() []string {
	out := append([]string{k.Path}, k.Aliases...)
	if k.Source != "" {
		out = append(out, k.Source)
	}
	return out
}

// registry is the table of all keys and the ways to find one.
type registry struct {
	keys     []Key
	byName   map[string]int  // every name of a key → index in keys
	sections map[string]bool // every proper prefix of a name: "wal", "wal.directories[]"
	byEnv    map[string]int
	byFlag   map[string]int
}

var known = newRegistry(slices.Concat(nodeKeys, clusterKeys, shardingKeys, replicationKeys, walKeys, rebalanceKeys, laterKeys))

func newRegistry(keys []Key) registry {
	r := registry{keys: keys, byName: map[string]int{}, sections: map[string]bool{}, byEnv: map[string]int{}, byFlag: map[string]int{}}
	for i, k := range keys {
		for _, name := range k.names() {
			r.byName[name] = i
			for at := strings.LastIndexByte(name, '.'); at > 0; at = strings.LastIndexByte(name[:at], '.') {
				r.sections[name[:at]] = true
			}
		}
		if k.Env() != "" {
			r.byEnv[k.Env()], r.byFlag[k.Flag()] = i, i
		}
	}
	return r
}

func (r registry) find(name string) (Key, bool) {
	i, ok := r.byName[name]
	if !ok {
		return Key{}, false
	}
	return r.keys[i], true
}

// fields are the keys of the objects in a list, and fieldName is such a key's name within its object.
func (r registry) fields(list string) []Key {
	var out []Key
	for _, k := range r.keys {
		if strings.HasPrefix(k.Path, list+"[].") {
			out = append(out, k)
		}
	}
	return out
}

func fieldName(path string) string {
	_, name, _ := strings.Cut(path, "[].")
	return name
}

// top says whether the key stands by itself rather than in the objects of a list.
func (k Key) top() bool { return !strings.Contains(k.Path, "[]") }

// Keys is the table of all keys.
func Keys() []Key { return slices.Clone(known.keys) }

// Lookup finds a key by its path, an alias or its source name.
func Lookup(name string) (Key, bool) { return known.find(name) }

// nearest is the known name that an unknown one most likely meant, or "". A name in the wrong section counts as near.
func (r registry) nearest(name string, section bool) string {
	if section {
		return Nearest(name, maps.Keys(r.sections))
	}
	if leaf := name[strings.LastIndexByte(name, '.')+1:]; len(leaf) > 4 {
		for _, k := range r.keys {
			if strings.HasSuffix(k.Path, "."+leaf) {
				return k.Path
			}
		}
	}
	return Nearest(name, maps.Keys(r.byName))
}

// Nearest is the candidate with the fewest changes from name, or "" when all are far: more than half of it, or a quarter of a long one, would
// have to change.
func Nearest(name string, candidates iter.Seq[string]) string {
	best, least := "", max(1, min(2, len(name)/2), len(name)/4)+1
	for c := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(c)); d < least || d == least && best != "" && c < best {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with their neighbour to get from a to b.
func distance(a, b string) int {
	if len(a) > 200 || len(b) > 200 {
		return max(len(a), len(b))
	}
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
