// Package pkg_test checks the shape of the house: which room may import which, and that the pure rooms are pure.
package pkg_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/themisdb/themis/"

// house is the table of the rooms. A room is a directory directly below pkg or pkg/internal, a program below cmd, or tui;
// its subdirectories belong to it.
type house struct {
	may     map[string]string // room: what it may import besides themis and internal/guard
	pure    string            // the rooms of floors 0 and 1
	outside map[string]string // pure room: the modules from elsewhere that it may import
}

const below = "recording rpc control replication migrate archive cdc " + // floor 3
	"wal store pki " + // floor 2
	"controller election rebalance health cluster routing conflict aql config" // floor 1

var ours = house{
	may: map[string]string{
		"cmd/themisd": "config node web pki",
		"cmd/themis-cli": "config client health recording sim rebalance routing cluster doctor wal archive pki tui playground " +
			"node testdata rpc bench workload cmd/internal", // node: the hidden node-run; testdata: the documents of playground; rpc: a newcomer's first contact, without a certificate
		"cmd/themisdb-repl-doctor": "config client doctor health cmd/internal",
		"cmd/internal":             "client config", // what the programs share
		"tui":                      "client health cluster",

		// floor 4
		"node":       below + " web",
		"playground": "pki client health config cluster",
		"client":     "recording rpc pki routing cluster health",
		"doctor":     "client wal cluster health",
		"web":        "cluster health rpc pki",
		"bench":      "loopback workload routing node playground client replication wal store rpc pki cluster health",
		"sim":        "controller rebalance routing cluster health",

		// floor 3
		"rpc":         "pki",
		"recording":   "rpc cluster health",
		"control":     "cluster config routing",
		"replication": "wal store cluster election",
		"migrate":     "wal store routing cluster",
		"archive":     "wal store",
		"cdc":         "wal",

		// floor 2
		"wal":      "",
		"store":    "",
		"pki":      "",
		"loopback": "",

		// floor 1
		"controller": "election rebalance routing cluster",
		"election":   "cluster",
		"rebalance":  "routing cluster",
		"health":     "routing cluster",
		"cluster":    "routing config",
		"routing":    "",
		"conflict":   "",
		"aql":        "",
		"config":     "",
		"workload":   "",

		// floor 0
		"themis": "",
	},
	pure: "controller election rebalance health cluster routing conflict aql config workload themis",
	outside: map[string]string{
		"routing": "github.com/twmb/murmur3",
		"config":  "github.com/spf13/viper github.com/go-viper/mapstructure gopkg.in/yaml.v3 go.yaml.in/yaml/v3",
	},
}

// badNames say nothing about what is inside.
const badNames = "utils util common types helpers helper manager impl v2"

// unclean are the packages of the standard library that reach outside the program or bring chance into it; so does all below them.
var unclean = []string{"os", "net", "log", "syscall", "crypto/rand", "hash/maphash", "io/ioutil", "testing"}

// clean are the exceptions: values only.
var clean = []string{"net/netip", "net/url"}

// clock are the functions of package time that read the clock or wait for it.
const clock = "Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker"

// parts are the names a pure room may use of packages that it may not use whole.
var parts = map[string]string{
	"math/rand":    seeded, // every other function draws from the shared source
	"math/rand/v2": seeded,
	"net":          "SplitHostPort JoinHostPort", // text to text
}

const seeded = "Rand New Source Source64 NewSource PCG NewPCG ChaCha8 NewChaCha8 Zipf NewZipf"

// room is one room's files that are not tests.
type room struct {
	name    string
	dir     string
	files   map[string]*ast.File
	comment bool // some file directly in dir has a package comment
}

// TestArrows reads every import of the tree.
func TestArrows(t *testing.T) {
	rooms, faults, err := survey(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(rooms, func(r room) bool { return r.name == "themis" }) {
		t.Fatalf("the room themis was not found among %d rooms: this test looks in the wrong place", len(rooms))
	}
	for _, fault := range append(faults, ours.faults(rooms)...) {
		t.Error(fault)
	}
}

// TestArrowsPointDown finds a circle in the table itself.
func TestArrowsPointDown(t *testing.T) {
	if c := ours.circle(); c != nil {
		t.Errorf("the table runs in a circle: %s", strings.Join(c, " → "))
	}
	round := house{may: map[string]string{"a": "b", "b": "c", "c": "a"}}
	if round.circle() == nil {
		t.Error("a → b → c → a was not seen as a circle")
	}
}

func (h house) circle() []string {
	done := map[string]bool{}
	var walk func(trail []string) []string
	walk = func(trail []string) []string {
		at := trail[len(trail)-1]
		if i := slices.Index(trail, at); i < len(trail)-1 {
			return trail[i:]
		}
		if done[at] {
			return nil
		}
		for next := range strings.FieldsSeq(h.may[at]) {
			if c := walk(append(slices.Clone(trail), next)); c != nil {
				return c
			}
		}
		done[at] = true
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(h.may)) {
		if c := walk([]string{name}); c != nil {
			return c
		}
	}
	return nil
}

// survey parses every Go file below pkg, cmd and tui that is not a test, generated files too. Faults are names that say nothing.
func survey(fsys fs.FS) (rooms []room, faults []string, err error) {
	byName := map[string]*room{}
	for _, top := range []string{"pkg", "cmd", "tui"} {
		err := fs.WalkDir(fsys, top, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				if name == top {
					return fs.SkipDir // not built yet
				}
				return err
			}
			base := path.Base(name)
			if d.IsDir() {
				if base == "testdata" || base[0] == '_' || base[0] == '.' {
					return fs.SkipDir
				}
				if slices.Contains(strings.Fields(badNames), base) {
					faults = append(faults, name+": the name says nothing; which noun of the design is it?")
				}
				return nil
			}
			if !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") {
				return nil
			}
			return add(byName, fsys, name)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		rooms = append(rooms, *byName[name])
	}
	return rooms, faults, nil
}

func add(rooms map[string]*room, fsys fs.FS, name string) error {
	src, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	who, dir := roomOf(path.Dir(name))
	r := rooms[who]
	if r == nil {
		r = &room{name: who, dir: dir, files: map[string]*ast.File{}}
		rooms[who] = r
	}
	r.files[name] = f
	if path.Dir(name) == dir && f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" {
		r.comment = true
	}
	return nil
}

// roomOf finds the room that a directory of the tree belongs to, and where the room begins.
func roomOf(dir string) (name, root string) {
	parts := strings.Split(dir, "/")
	keep := 1
	switch {
	case len(parts) > 2 && parts[0] == "pkg" && parts[1] == "internal":
		keep = 3
	case len(parts) > 1 && parts[0] != "tui":
		keep = 2
	}
	root = strings.Join(parts[:keep], "/")
	return strings.TrimPrefix(root, "pkg/"), root
}

// faults are all breaches of the rules, as sentences that name the file.
func (h house) faults(rooms []room) []string {
	var out []string
	for _, r := range rooms {
		if _, ok := h.may[r.name]; !ok && !inner(r.name) {
			out = append(out, fmt.Sprintf("%s: not in the table of rooms; a new room needs its line there", r.dir))
		}
		if !r.comment {
			out = append(out, fmt.Sprintf("%s: no package comment; it is the room's contract", r.dir))
		}
		for _, name := range slices.Sorted(maps.Keys(r.files)) {
			out = append(out, h.imports(r, name)...)
			if slices.Contains(strings.Fields(h.pure), r.name) {
				out = append(out, h.impure(r, name)...)
			}
		}
	}
	return out
}

func inner(name string) bool { return strings.HasPrefix(name, "internal/") }

func (h house) imports(r room, name string) []string {
	var out []string
	for _, spec := range r.files[name].Imports {
		full := importPath(spec)
		if full+"/" == module {
			out = append(out, fmt.Sprintf("%s: imports the module's root", name))
			continue
		}
		local, ok := strings.CutPrefix(full, module)
		if !ok {
			continue
		}
		if to, _ := roomOf(local); !h.allowed(r.name, to) {
			out = append(out, fmt.Sprintf("%s: %s may not import %s", name, r.name, to))
		}
	}
	return out
}

func (h house) allowed(from, to string) bool {
	switch {
	case to == from, to == "themis", to == "internal/guard" && from != "themis":
		return true
	case inner(to):
		return strings.HasPrefix(from, "cmd/")
	}
	return slices.Contains(strings.Fields(h.may[from]), to)
}

// impure looks for what floors 0 and 1 must not know: clock, disk, network, log, goroutine, shared source of chance.
func (h house) impure(r room, name string) []string {
	var out []string
	fault := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("%s: %s is pure: ", name, r.name)+fmt.Sprintf(format, args...))
	}
	f := r.files[name]
	watched := map[string]string{} // the name in this file of time and of each of parts: its import path
	for _, spec := range f.Imports {
		full := importPath(spec)
		if strings.HasPrefix(full, module) {
			continue
		}
		_, inPart := parts[full]
		if reaches(full) && !inPart || foreign(full) && !within(full, h.outside[r.name]) {
			fault("it may not import %s", full)
		}
		if full == "time" || inPart {
			as := path.Base(strings.TrimSuffix(full, "/v2"))
			if spec.Name != nil {
				as = spec.Name.Name
			}
			if as == "." {
				fault("%s is imported under the name it has", full)
			}
			watched[as] = full
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			fault("it starts no goroutine")
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok {
				break
			}
			from := watched[x.Name]
			names, inPart := parts[from]
			if from == "time" && slices.Contains(strings.Fields(clock), n.Sel.Name) || inPart && !slices.Contains(strings.Fields(names), n.Sel.Name) {
				fault("%s.%s: time, chance and the world come in as arguments", from, n.Sel.Name)
			}
		}
		return true
	})
	return out
}

func importPath(spec *ast.ImportSpec) string {
	p, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
	return p
}

func reaches(pkg string) bool {
	under := func(root string) bool { return pkg == root || strings.HasPrefix(pkg, root+"/") }
	return slices.ContainsFunc(unclean, under) && !slices.Contains(clean, pkg)
}

// foreign says whether the package is of neither this module nor the standard library: its first part has a dot.
func foreign(pkg string) bool {
	first, _, _ := strings.Cut(pkg, "/")
	return strings.Contains(first, ".")
}

func within(pkg, modules string) bool {
	return slices.ContainsFunc(strings.Fields(modules), func(m string) bool { return pkg == m || strings.HasPrefix(pkg, m+"/") })
}

// TestArrowsSeesFaults breaks each rule once in a tree of a file or two.
func TestArrowsSeesFaults(t *testing.T) {
	const good = "// Package x is a room.\npackage x\n"
	use := func(imports ...string) string {
		return good + `import _ "` + strings.Join(imports, "\"\nimport _ \"") + "\"\n"
	}
	clocked := func(imports, body string) string {
		return good + "import (" + imports + ")\nfunc f() { " + body + " }\n"
	}
	for _, c := range []struct{ what, file, src, want string }{
		{"a lower room", "pkg/election/a.go", use(module + "pkg/cluster"), ""},
		{"themis", "pkg/wal/a.go", use(module + "pkg/themis"), ""},
		{"a guard", "pkg/wal/a.go", use(module + "pkg/internal/guard"), ""},
		{"a sub-package of a lower room", "pkg/node/a.go", use(module + "pkg/rpc/proto/themis/node/v1"), ""},
		{"its own sub-package", "pkg/rpc/a.go", use(module + "pkg/rpc/proto/themis/node/v1"), ""},
		{"inner rooms from a program", "cmd/themisd/a.go", use(module + "pkg/internal/faults"), ""},
		{"a test imports more", "pkg/wal/a_test.go", use(module + "pkg/node"), ""},
		{"testdata is no code", "pkg/wal/testdata/utils/a.go", use(module + "pkg/node"), ""},
		{"the clock above floor 1", "pkg/wal/a.go", clocked(`"time"`, "time.Sleep(1); go f()"), ""},
		{"a seeded source", "pkg/rebalance/a.go", clocked(`"math/rand/v2"`, "rand.New(rand.NewPCG(1, 2)).IntN(3)"), ""},
		{"durations", "pkg/election/a.go", clocked(`"time"`, "_ = time.Duration(3) * time.Second"), ""},
		{"addresses", "pkg/cluster/a.go", use("net/netip"), ""},
		{"host and port", "pkg/config/a.go", clocked(`"net"`, `net.JoinHostPort("a", "1")`), ""},
		{"viper in config", "pkg/config/a.go", use("github.com/spf13/viper"), ""},

		{"an upper room", "pkg/wal/a.go", use(module + "pkg/node"), "pkg/wal/a.go: wal may not import node"},
		{"sideways", "pkg/wal/a.go", use(module + "pkg/store"), "wal may not import store"},
		{"a sub-package of an upper room", "pkg/wal/a.go", use(module + "pkg/rpc/proto/x"), "wal may not import rpc"},
		{"from a sub-package", "pkg/wal/frame/a.go", use(module + "pkg/store"), "wal may not import store"},
		{"a program", "pkg/node/a.go", use(module + "cmd/themisd"), "node may not import cmd/themisd"},
		{"the screens from a room", "pkg/node/a.go", use(module + "tui"), "node may not import tui"},
		{"a room the doctor doesn't need", "cmd/themisdb-repl-doctor/a.go", use(module + "pkg/store"), "may not import store"},
		{"a room the screens don't need", "tui/a.go", use(module + "pkg/wal"), "tui may not import wal"},
		{"themis imports nothing of ours", "pkg/themis/a.go", use(module + "pkg/internal/guard"), "themis may not import internal/guard"},
		{"an inner room from a room", "pkg/node/a.go", use(module + "pkg/internal/faults"), "node may not import internal/faults"},
		{"a room from an inner room", "pkg/internal/faults/a.go", use(module + "pkg/wal"), "internal/faults may not import wal"},
		{"the module's root", "pkg/node/a.go", use(strings.TrimSuffix(module, "/")), "imports the module's root"},
		{"a hidden tool", "pkg/node/a.go", use(module + ".ci/airports"), "may not import .ci/airports"},

		{"an unknown room", "pkg/parity/a.go", good, "pkg/parity: not in the table"},
		{"an unknown program", "cmd/themis-admin/a.go", good, "cmd/themis-admin: not in the table"},
		{"loose files", "pkg/a.go", good, "pkg: not in the table"},
		{"no comment", "pkg/wal/a.go", "package wal\n", "pkg/wal: no package comment"},
		{"a comment only below", "pkg/wal/frame/a.go", good, "pkg/wal: no package comment"},
		{"a name that says nothing", "pkg/wal/utils/a.go", good, "pkg/wal/utils: the name says nothing"},
		{"another", "pkg/v2/a.go", good, "pkg/v2: the name says nothing"},

		{"disk", "pkg/routing/a.go", use("os"), "may not import os"},
		{"processes", "pkg/routing/a.go", use("os/exec"), "may not import os/exec"},
		{"network", "pkg/cluster/a.go", clocked(`"net"`, `net.Dial("tcp", "a:1")`), "net.Dial"},
		{"network without a name", "pkg/cluster/a.go", clocked(`. "net"`, `Dial("tcp", "a:1")`), "under the name it has"},
		{"HTTP", "pkg/themis/a.go", use("net/http"), "may not import net/http"},
		{"log", "pkg/health/a.go", use("log"), "may not import log"},
		{"slog", "pkg/controller/a.go", use("log/slog"), "may not import log/slog"},
		{"true chance", "pkg/election/a.go", use("crypto/rand"), "may not import crypto/rand"},
		{"a foreign module", "pkg/cluster/a.go", use("github.com/spf13/viper"), "may not import github.com/spf13/viper"},
		{"shared chance", "pkg/rebalance/a.go", clocked(`"math/rand/v2"`, "rand.IntN(3)"), "math/rand/v2.IntN"},
		{"shared chance of old", "pkg/rebalance/a.go", clocked(`r "math/rand"`, "r.Shuffle(1, nil)"), "math/rand.Shuffle"},
		{"the clock", "pkg/election/a.go", clocked(`"time"`, "time.Now()"), "time.Now"},
		{"the clock by another name", "pkg/election/a.go", clocked(`t "time"`, "now := t.Now; now()"), "time.Now"},
		{"the clock without a name", "pkg/election/a.go", clocked(`. "time"`, "Now()"), "under the name it has"},
		{"waiting", "pkg/controller/a.go", clocked(`"time"`, "time.Sleep(1)"), "time.Sleep"},
		{"a timer", "pkg/controller/a.go", clocked(`"time"`, "<-time.After(1)"), "time.After"},
		{"a goroutine", "pkg/cluster/a.go", clocked("", "go f()"), "starts no goroutine"},
	} {
		t.Run(c.what, func(t *testing.T) {
			rooms, faults, err := survey(fstest.MapFS{c.file: {Data: []byte(c.src)}})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(append(faults, ours.faults(rooms)...), "\n")
			if c.want == "" && got != "" {
				t.Errorf("refused: %s", got)
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("want %q, got %q", c.want, got)
			}
		})
	}
}

// TestModulesAreExplained finds each direct requirement of go.mod in the table of licences.
func TestModulesAreExplained(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/adr/0006-dependencies-and-licences.md")
	if err != nil {
		t.Fatal(err)
	}
	known := strings.FieldsFunc(string(page), func(r rune) bool { return strings.ContainsRune(" ,|\n", r) })
	direct := 0
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(f) < 2 || !foreign(f[0]) || f[1][0] != 'v' || strings.Contains(line, "// indirect") {
			continue
		}
		direct++
		if !slices.Contains(known, f[0]) {
			t.Errorf("%s has no licence and no reason in docs/adr/0006-dependencies-and-licences.md", f[0])
		}
	}
	if direct == 0 {
		t.Error("no requirement was found in go.mod")
	}
}

// A file that can't be parsed is no pass.
func TestArrowsReadsEveryFile(t *testing.T) {
	if _, _, err := survey(fstest.MapFS{"pkg/wal/a.go": {Data: []byte("packag wal")}}); err == nil {
		t.Error("a broken file was passed over")
	}
}
