package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// maxSource is the largest file that is read, in bytes; maxItems the longest list.
const (
	maxSource = 1 << 20
	maxItems  = 10_000
)

// Fault is one thing that is wrong, or worth a warning, and where it stands.
type Fault struct {
	Where  string // "cluster.yaml:12", "env THEMIS_NODE_ROLE", "flag --role"; empty when it is about what isn't there
	Key    string
	Reason string
}

// file is the file that the fault is in; FILE where it is in none.
func (f Fault) file() string {
	name, _, _ := strings.Cut(f.Where, ":")
	if name == "" || strings.HasPrefix(f.Where, "env ") || strings.HasPrefix(f.Where, "flag ") {
		return "FILE"
	}
	return name
}

func (f Fault) Error() string {
	out := f.Reason
	if f.Key != "" {
		out = f.Key + ": " + out
	}
	if f.Where != "" {
		out = f.Where + ": " + out
	}
	return out
}

// layer says which of two settings of one key holds: the higher one.
type layer int

const (
	layerDefault layer = 0 // files are 1, 2, 3 …, later ones higher
	layerEnv     layer = 1 << 20
	layerFlag    layer = 1 << 21
	layerApplied layer = 1 << 22 // the control plane's, for cluster-wide keys
)

// cell is a key's value and where it comes from.
type cell struct {
	value any
	layer layer
	name  string // the name under which it was set: the path, an alias or the source name
	from  string // "default", "file cluster.yaml:12", "env THEMIS_X", "flag --x", "cluster"
	where string // as in Fault
}

// reader collects values and faults.
type reader struct {
	cells    map[string]cell // by path
	broken   map[string]bool // paths with a fault; checks across keys leave them out
	faults   []Fault
	warnings []Fault
}

func newReader() *reader {
	r := &reader{cells: map[string]cell{}, broken: map[string]bool{}}
	for _, k := range known.keys {
		if k.top() {
			r.cells[k.Path] = cell{value: k.defaultValue(), from: "default"}
		}
	}
	return r
}

func (r *reader) fault(where, key, format string, args ...any) {
	if !guard.On(guard.ConfigFaults) {
		return
	}
	r.faults = append(r.faults, Fault{where, key, fmt.Sprintf(format, args...)})
}

func (r *reader) warn(where, key, format string, args ...any) {
	r.warnings = append(r.warnings, Fault{where, key, fmt.Sprintf(format, args...)})
}

// set stores a value over that of a lower layer: layers are read in rising order. Two names of one setting may not
// contradict each other in one place.
func (r *reader) set(k Key, c cell) {
	old := r.cells[k.Path]
	if old.layer == c.layer && old.name != c.name && show(old.value) != show(c.value) {
		r.broken[k.Path] = true
		r.fault(c.where, c.name, "%s, but %s (%s) says %s: the two are one setting", show(c.value), old.name, old.where, show(old.value))
		return
	}
	r.cells[k.Path] = c
}

// file reads one YAML file into a layer.
func (r *reader) file(s Source, l layer) {
	if len(s.Data) > maxSource {
		r.fault(s.Name, "", "more than %d bytes, which no file of settings has", maxSource)
		return
	}
	root, err := parseYAML(s.Data)
	if err != nil {
		line, why := syntaxFault(err)
		r.fault(fmt.Sprintf("%s:%d", s.Name, line), "", "%s", why)
		return
	}
	if root == nil {
		return // an empty file
	}
	f := fileReader{reader: r, name: s.Name, layer: l}
	if root.Kind != yaml.MappingNode {
		r.fault(f.at(root), "", "want keys and values")
		return
	}
	f.section(root, "")
}

func parseYAML(data []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s", strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", "; "))
	}
	var second yaml.Node
	if err := d.Decode(&second); err == nil {
		return nil, fmt.Errorf("line %d: more than one document: want one", max(1, second.Line))
	} else if !errors.Is(err, io.EOF) {
		return nil, errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", "; "))
	}
	if len(doc.Content) != 1 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return doc.Content[0], nil
}

// syntaxFault takes the line out of what the parser says; it names none where that is the first.
func syntaxFault(err error) (line int, why string) {
	if n, _ := fmt.Sscanf(err.Error(), "line %d:", &line); n == 1 { //nolint:errcheck // then there is none
		_, why, _ = strings.Cut(err.Error(), ": ")
		return line, why
	}
	return 1, err.Error()
}

// fileReader walks one file. list and done are for the objects of a list: the list's path, and what was read so far.
type fileReader struct {
	*reader
	name  string
	layer layer
	loose bool
	list  string
	done  map[string]any
}

func (f fileReader) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", f.name, n.Line) }

// section reads the keys of a mapping; prefix is "" or ends in a dot.
func (f fileReader) section(n *yaml.Node, prefix string) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		name := prefix + key.Value
		switch line, twice := seen[name]; {
		case key.Kind != yaml.ScalarNode || key.Tag == "!!merge" || val.Kind == yaml.AliasNode:
			f.fault(f.at(key), name, "anchors, merges and keys that aren't plain names are not supported: write the values out")
		case twice:
			f.fault(f.at(key), name, "is in line %d already", line)
		default:
			f.entry(name, key, val)
		}
		seen[name] = key.Line
	}
}

// entry reads one key, which is known, a section, or a mistake.
func (f fileReader) entry(name string, key, val *yaml.Node) {
	k, ok := known.find(name)
	switch {
	case ok && f.list == "" && !k.top():
		list, _, _ := strings.Cut(k.Path, "[]")
		f.fault(f.at(key), name, "is a field of the entries of %s: write it there", list)
	case ok:
		f.value(k, name, val)
	case known.sections[name] && val.Kind == yaml.MappingNode:
		f.section(val, name+".")
	case known.sections[name]:
		f.fault(f.at(key), name, "is a section: want keys below it")
	default:
		f.unknown(f.at(key), name, val.Kind == yaml.MappingNode)
	}
}

func (r *reader) unknown(where, name string, section bool) {
	near := ""
	if len(r.faults) < 100 { // who has more than that has the wrong file
		near = known.nearest(name, section)
	}
	if near == "" && section && len(r.faults) < 100 {
		near = known.nearest(name, false)
	}
	if near == "" && !section && len(r.faults) < 100 {
		near = known.nearest(name, true)
	}
	r.fault(where, name, "unknown key%s", didYouMean("", near))
}

func didYouMean(prefix, near string) string {
	if near == "" {
		return ""
	}
	return "; did you mean " + prefix + near + "?"
}

// value reads the value of a known key.
func (f fileReader) value(k Key, name string, val *yaml.Node) {
	v, err := f.parse(k, val)
	if err != nil {
		f.broken[k.Path] = true
		if f.list != "" {
			f.broken[f.list] = true
			f.done[fieldName(k.Path)] = nil // there, though wrong: not missing
		}
		if !errors.Is(err, errFaulted) {
			f.fault(f.at(val), name, "%v", err)
		}
		return
	}
	if f.list != "" {
		f.done[fieldName(k.Path)] = v
		return
	}
	f.set(k, cell{v, f.layer, name, "file " + f.at(val), f.at(val)})
}

// errFaulted says that faults are noted already.
var errFaulted = errors.New("faults noted")

func (f fileReader) parse(k Key, n *yaml.Node) (any, error) {
	want := map[Type]yaml.Kind{Texts: yaml.SequenceNode, Shards: yaml.SequenceNode, Objects: yaml.SequenceNode, Map: yaml.MappingNode}[k.Type]
	if want == 0 {
		want = yaml.ScalarNode
	}
	if n.Kind != want {
		return nil, fmt.Errorf("want %s", k.Want())
	}
	if len(n.Content) > maxItems {
		return nil, fmt.Errorf("%d entries: want at most %d", len(n.Content), maxItems)
	}
	switch k.Type {
	case Texts, Shards:
		return f.texts(k, n)
	case Map:
		return f.names(k, n)
	case Objects:
		return f.objects(k, n)
	}
	return k.parseScalar(n.Value, n.Tag, f.loose)
}

func (f fileReader) texts(k Key, n *yaml.Node) (any, error) {
	item := Key{Path: k.Path, Type: map[Type]Type{Texts: Text, Shards: Shard}[k.Type]}
	out := []string{}
	for _, e := range n.Content {
		if e.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("want %s", k.Want())
		}
		v, err := item.parseScalar(e.Value, e.Tag, f.loose)
		if err != nil {
			return nil, err
		}
		s := show(v)
		if slices.Contains(out, s) {
			return nil, fmt.Errorf("%s is named twice", s)
		}
		out = append(out, s)
	}
	return out, nil
}

func (f fileReader) names(k Key, n *yaml.Node) (any, error) {
	item := Key{Path: k.Path, Type: Enum, Range: k.Range}
	out := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, val := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode || val.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("want %s", k.Want())
		}
		if _, ok := out[name.Value]; ok {
			return nil, fmt.Errorf("%s is named twice", name.Value)
		}
		v, err := item.parseScalar(val.Value, val.Tag, f.loose)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name.Value, err)
		}
		out[name.Value] = show(v)
	}
	return out, nil
}

// objects reads a list of objects and fills in the defaults of their fields.
func (f fileReader) objects(k Key, n *yaml.Node) (any, error) {
	before := len(f.faults)
	out := []object{}
	for _, e := range n.Content {
		if e.Kind != yaml.MappingNode {
			f.fault(f.at(e), k.Path, "want an object with the fields %s", strings.Join(fieldNames(k), ", "))
			continue
		}
		inner := fileReader{f.reader, f.name, f.layer, f.loose, k.Path, map[string]any{}}
		inner.section(e, k.Path+"[].")
		for _, field := range known.fields(k.Path) {
			name := fieldName(field.Path)
			if _, ok := inner.done[name]; ok {
				continue
			}
			if field.Required {
				f.fault(f.at(e), field.Path, "is missing: want %s", field.Want())
			} else if v := field.defaultValue(); v != nil && show(v) != "null" {
				inner.done[name] = v
			}
		}
		out = append(out, object{e.Line, inner.done})
	}
	if len(f.faults) > before {
		return nil, errFaulted
	}
	return out, nil
}

func fieldNames(k Key) []string {
	var out []string
	for _, field := range known.fields(k.Path) {
		out = append(out, fieldName(field.Path))
	}
	return out
}

// text reads a value from an environment variable, a flag or the control plane. Lists are YAML or JSON in one line, or
// names with commas between.
func (r *reader) text(k Key, name, text string, l layer, from string) {
	f := fileReader{reader: r, name: from, layer: l, loose: true}
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	switch k.Type {
	case Texts, Shards, Map, Objects:
		if (k.Type == Texts || k.Type == Shards) && !strings.HasPrefix(strings.TrimSpace(text), "[") {
			text = "[" + text + "]"
		}
		root, err := parseYAML([]byte(text))
		if err != nil || root == nil || len(text) > maxSource {
			r.broken[k.Path] = true
			r.fault(from, name, "%q: want %s", text, k.Want())
			return
		}
		n = root
	}
	v, err := f.parse(k, n)
	if err != nil {
		r.broken[k.Path] = true
		if !errors.Is(err, errFaulted) {
			r.fault(from, name, "%v", err)
		}
		return
	}
	r.set(k, cell{v, l, from, from, from})
}

// err joins all faults, sorted as they were found; nil when there are none.
func (r *reader) err() error {
	if len(r.faults) == 0 {
		return nil
	}
	errs := make([]error, len(r.faults))
	for i, f := range r.faults {
		errs[i] = f
	}
	return themis.Errorf(themis.InvalidArgument, "%w", errors.Join(errs...)).Do("themis-cli config validate %s", r.faults[0].file())
}
