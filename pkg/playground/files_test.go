package playground

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Options)
		code   themis.Code
		words  string
	}{
		"default":              {func(*Options) {}, "", ""},
		"five with a witness":  {func(o *Options) { o.Nodes, o.ControlNodes, o.RF = 5, 5, 3 }, "", ""},
		"spares":               {func(o *Options) { o.Spares = 2 }, "", ""},
		"one copy":             {func(o *Options) { o.Nodes, o.RF, o.Redundancy = 1, 1, "NONE" }, "", ""},
		"hybrid":               {func(o *Options) { o.Replication, o.SyncShards = themis.Hybrid, []themis.ShardID{"shard-4"} }, "", ""},
		"no nodes":             {func(o *Options) { o.Nodes = 0 }, themis.InvalidArgument, "nodes 0: want 1 to 32"},
		"negative spares":      {func(o *Options) { o.Spares = -1 }, themis.InvalidArgument, "spares -1"},
		"too many":             {func(o *Options) { o.Nodes, o.Spares = 30, 3 }, themis.InvalidArgument, "at most 32 processes"},
		"more copies":          {func(o *Options) { o.RF = 4 }, themis.InvalidArgument, "replication_factor 4 needs 4 nodes that store documents, there are 3"},
		"spares store nothing": {func(o *Options) { o.RF, o.Spares = 4, 1 }, themis.InvalidArgument, "there are 3 of 4"},
		"even control":         {func(o *Options) { o.ControlNodes = 2 }, themis.InvalidArgument, "control_nodes 2"},
		"control above nodes":  {func(o *Options) { o.ControlNodes = 5 }, themis.InvalidArgument, "there are 3 nodes"},
		"k 0 under sync":       {func(o *Options) { o.K = 0 }, themis.InvalidArgument, "min_sync_replicas 0"},
		"k above copies":       {func(o *Options) { o.K = 2 }, themis.InvalidArgument, "needs 3 copies"},
		"no shards":            {func(o *Options) { o.Shards = 0 }, themis.InvalidArgument, "shards 0"},
		"too many shards":      {func(o *Options) { o.Shards = routing.MaxShards + 1 }, themis.InvalidArgument, "want 1 to 1024"},
		"mode":                 {func(o *Options) { o.Redundancy = "PARITY" }, themis.Unimplemented, "PARITY"},
		"hybrid of nothing":    {func(o *Options) { o.Replication = themis.Hybrid }, themis.InvalidArgument, "sync_shards"},
		"list without hybrid":  {func(o *Options) { o.SyncShards = []themis.ShardID{"shard-1"} }, themis.InvalidArgument, "only under replication hybrid"},
		"unknown shard": {func(o *Options) { o.Replication, o.SyncShards = themis.Hybrid, []themis.ShardID{"shard-5"} },
			themis.InvalidArgument, "only shard-1 to shard-4"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Default()
			c.change(&o)
			refused(t, o.Validate(), c.code, c.words)
		})
	}
}

func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Found(bounded(t), dir, Default(), testHost(t, "silent"))
	refused(t, err, themis.InvalidArgument, dir, "something else", "thesis.txt")
	_, err = Found(bounded(t), file, Default(), testHost(t, "silent"))
	refused(t, err, themis.InvalidArgument, file)
	_, err = Open(dir, testHost(t, "silent"))
	refused(t, err, themis.InvalidArgument, "no playground in "+dir)
	if list := must[[]os.DirEntry](t)(os.ReadDir(dir)); len(list) != 1 {
		t.Errorf("the directory was touched: %v", list)
	}
}

func TestFilesAreClosedToOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &Playground{Dir: dir, host: must[Host](t)(testHost(t, "silent").complete())}
	if err := p.claim(); err != nil {
		t.Fatal(err)
	}
	s := &state{Format: stateFormat, Dir: dir, Cluster: clusterName, Options: Default(), Nodes: Default().members(), Founded: true}
	if err := p.prepare(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		".": 0o700, pkiDir: 0o700, "node-1": 0o700, client.PlaygroundFile: 0o600, stateName: 0o600, "pki/ca.key": 0o600, "pki/node-2.key": 0o600,
		"pki/admin.key": 0o600, "node-3/themisd.yaml": 0o600,
	} {
		st, err := os.Stat(p.path(name))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", name, st.Mode().Perm(), err, want)
		}
	}
}

// TestPlaygroundFile holds the shape that scripts rely on.
func TestPlaygroundFile(t *testing.T) {
	p := made(t, "silent", 2)
	if _, err := p.Kill(bounded(t), "node-2"); err != nil {
		t.Fatal(err)
	}
	b := must[[]byte](t)(os.ReadFile(p.path(client.PlaygroundFile)))
	s := must[*state](t)(p.read())
	want := fmt.Sprintf(`{"cluster":"playground","ca_cert":"DIR/pki/ca.crt","client_cert":"DIR/pki/admin.crt","client_key":"DIR/pki/admin.key","nodes":[`+
		`{"id":"node-1","pid":%d,"grpc_addr":"%s","http_addr":"%s","metrics_addr":"%s","data_dir":"DIR/node-1/data","log":"DIR/node-1/themisd.log"},`+
		`{"id":"node-2","pid":null,"grpc_addr":"%s","http_addr":"%s","metrics_addr":"%s","data_dir":"DIR/node-2/data","log":"DIR/node-2/themisd.log"}]}`,
		s.Nodes[0].Process.PID, s.Nodes[0].GRPC, s.Nodes[0].HTTP, s.Nodes[0].Metrics, s.Nodes[1].GRPC, s.Nodes[1].HTTP, s.Nodes[1].Metrics)
	var v struct {
		Cluster string `json:"cluster"`
		CA      string `json:"ca_cert"`
		Cert    string `json:"client_cert"`
		Key     string `json:"client_key"`
		Nodes   []struct {
			ID      string `json:"id"`
			Pid     any    `json:"pid"`
			GRPC    string `json:"grpc_addr"`
			HTTP    string `json:"http_addr"`
			Metrics string `json:"metrics_addr"`
			Data    string `json:"data_dir"`
			Log     string `json:"log"`
		} `json:"nodes"`
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(string(must[[]byte](t)(json.Marshal(v))), p.Dir, "DIR")
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if read, err := client.LoadPlayground(p.Dir); err != nil || len(read.Nodes) != 2 || read.Nodes[1].Pid != 0 {
		t.Errorf("the client reads %+v, %v", read, err)
	}
}

func TestMovedDirectory(t *testing.T) {
	p := made(t, "silent", 1)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(p.Dir, link); err != nil {
		t.Fatal(err)
	}
	other := must[*Playground](t)(Open(link, p.host))
	if n, err := other.Stop(bounded(t)); n != 1 || err != nil {
		t.Errorf("by another path: %d, %v", n, err)
	}
	moved := p.Dir + "-moved"
	if err := os.Rename(p.Dir, moved); err != nil {
		t.Fatal(err)
	}
	_, err := Open(moved, p.host)
	refused(t, err, themis.InvalidArgument, p.Dir, moved)
	if err := os.Rename(moved, p.Dir); err != nil {
		t.Fatal(err)
	}
}

func TestStateOfAnotherVersion(t *testing.T) {
	for text, code := range map[string]themis.Code{`{"format": 9}`: themis.Unimplemented, `{`: themis.InvalidArgument} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, testHost(t, "silent"))
		refused(t, err, code, stateName)
		_, err = Found(bounded(t), dir, Default(), testHost(t, "silent"))
		refused(t, err, code, stateName)
	}
}

// TestTakenPort: somebody listens on a port of a stopped node. Here that is this process.
func TestTakenPort(t *testing.T) {
	p := made(t, "silent", 2)
	if _, err := p.Stop(bounded(t)); err != nil {
		t.Fatal(err)
	}
	s := must[*state](t)(p.read())
	l := must[net.Listener](t)(net.Listen("tcp", s.Nodes[1].HTTP))
	defer l.Close()
	_, err := p.Start(bounded(t))
	refused(t, err, themis.InvalidArgument, "node-2", "node.http_listen", s.Nodes[1].HTTP, fmt.Sprintf("process %d has it", os.Getpid()))
	if left := processesOf(t, p.Dir); len(left) > 0 {
		t.Errorf("processes were started: %v", left)
	}
}

// TestPortsOfOthers: a playground never takes the ports of another one, also where that one is stopped.
func TestPortsOfOthers(t *testing.T) {
	var list []member
	for i := range 3 {
		list = append(list, member{ID: themis.NodeID(fmt.Sprint("node-", i))})
	}
	if err := reserve(t.Context(), list, nil); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range list {
		for _, p := range list[i].ports() {
			_, port, _ := net.SplitHostPort(*p.addr)
			if seen[*p.addr] || port < "20000" || port > "32000" || len(port) != 5 {
				t.Errorf("%s of %s", *p.addr, p.key)
			}
			seen[*p.addr] = true
		}
	}
	taken := map[string]bool{list[0].HTTP: true}
	if err := free(t.Context(), list, taken); err == nil || !strings.Contains(err.Error(), list[0].HTTP) {
		t.Errorf("%v", err)
	}
	twice := slices.Clone(list)
	twice[1].HTTP = twice[0].HTTP
	if err := free(t.Context(), twice, nil); err == nil {
		t.Error("the ports are not held open together")
	}
	l := must[net.Listener](t)(net.Listen("tcp", list[2].Client))
	defer l.Close()
	if err := free(t.Context(), list, nil); err == nil || !strings.Contains(err.Error(), list[2].Client) {
		t.Errorf("%v", err)
	}
}

func TestRegistry(t *testing.T) {
	p := made(t, "silent", 1)
	list := must[[]Info](t)(List(p.host))
	if len(list) != 1 || list[0].Dir != p.Dir || list[0].Running != 1 {
		t.Fatalf("%+v", list)
	}
	q := &Playground{Dir: t.TempDir(), host: p.host}
	s := &state{Format: stateFormat, Dir: q.Dir, Options: Default(), Nodes: Default().members()}
	if err := q.register(t.Context(), s, s.Nodes); err != nil {
		t.Fatal(err)
	}
	if list = must[[]Info](t)(List(p.host)); len(list) != 1 {
		t.Errorf("one that was never finished is listed: %+v", list)
	}
	if err := os.Remove(q.path(stateName)); err != nil {
		t.Fatal(err)
	}
	if dirs := registered(p.host.Registry); !slices.Equal(dirs, []string{p.Dir}) {
		t.Errorf("one that is gone is kept: %v", dirs)
	}
}

func TestListening(t *testing.T) {
	const line = "   0: 0100007F:5DC0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100 0 0 10 0"
	for name, c := range map[string]struct {
		line  string
		port  int
		inode string
		ok    bool
	}{
		"listens":         {line, 24000, "31337", true},
		"another port":    {line, 24001, "31337", false},
		"only connected":  {strings.Replace(line, " 0A ", " 01 ", 1), 24000, "", false},
		"the heading":     {"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", 24000, "", false},
		"IPv6":            {strings.Replace(line, "0100007F", strings.Repeat("0", 32), 1), 24000, "31337", true},
		"no port":         {strings.Replace(line, ":5DC0", "", 1), 24000, "", false},
		"no number":       {strings.Replace(line, "5DC0", "5XC0", 1), 24000, "", false},
		"a short number":  {strings.Replace(line, "5DC0", "C0", 1), 0xC0, "", false},
		"nothing":         {"", 24000, "", false},
		"not that far on": {"0: 0100007F:5DC0 00000000:0000 0A", 24000, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			if inode, ok := listening(c.line, c.port); ok != c.ok || ok && inode != c.inode {
				t.Errorf("%q, %v", inode, ok)
			}
		})
	}
}

func FuzzListening(f *testing.F) {
	f.Add("0: 0100007F:5DC0 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 31337 1", 24000)
	f.Fuzz(func(t *testing.T, line string, port int) {
		if inode, ok := listening(line, port); ok && !strings.Contains(line, inode) {
			t.Errorf("%q", inode)
		}
	})
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for _, text := range []string{"first", "second"} {
		if err := errors.Join(os.RemoveAll(from), os.WriteFile(from, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time it is the same file already
			if err := place(from, to); err != nil {
				t.Fatal(err)
			}
			if b := must[[]byte](t)(os.ReadFile(to)); string(b) != text {
				t.Errorf("%q", b)
			}
		}
	}
	if err := duplicate(from, filepath.Join(dir, "copy")); err != nil {
		t.Fatal(err)
	}
	if st := must[os.FileInfo](t)(os.Stat(filepath.Join(dir, "copy"))); st.Mode().Perm() != 0o700 || st.Size() != 6 {
		t.Errorf("%v, %d bytes", st.Mode(), st.Size())
	}
	refused(t, place(filepath.Join(dir, "nothing"), to), themis.InvalidArgument, "install "+to)
	if list := must[[]os.DirEntry](t)(os.ReadDir(dir)); len(list) != 3 {
		t.Errorf("left behind: %v", list)
	}
}

// TestSameBuild: a themisd beside the program serves only when it is surely of the same sources.
func TestSameBuild(t *testing.T) {
	build := func(change func(*buildinfo.BuildInfo)) *buildinfo.BuildInfo {
		b := &buildinfo.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Path: "m", Version: "v1.0.0"}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "false"}, {Key: "GOARCH", Value: "amd64"},
		}}
		change(b)
		return b
	}
	plain := build(func(*buildinfo.BuildInfo) {})
	for name, c := range map[string]struct {
		other *buildinfo.BuildInfo
		want  bool
	}{
		"the same":         {build(func(*buildinfo.BuildInfo) {}), true},
		"another commit":   {build(func(b *buildinfo.BuildInfo) { b.Settings[0].Value = "def" }), false},
		"another compiler": {build(func(b *buildinfo.BuildInfo) { b.GoVersion = "go1.26.9" }), false},
		"another version":  {build(func(b *buildinfo.BuildInfo) { b.Main.Version = "v1.0.1" }), false},
		"another module":   {build(func(b *buildinfo.BuildInfo) { b.Main.Path = "n" }), false},
		"another machine":  {build(func(b *buildinfo.BuildInfo) { b.Settings[2].Value = "arm64" }), false},
	} {
		if same(plain, c.other) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
	changed := func(b *buildinfo.BuildInfo) { b.Settings[1].Value = "true" }
	if same(build(changed), build(changed)) {
		t.Error("sources that were changed behind the commit count as the same")
	}
	unknown := func(b *buildinfo.BuildInfo) { b.Settings = b.Settings[1:] }
	if same(build(unknown), build(unknown)) {
		t.Error("sources of no known commit count as the same")
	}
	if sameBuild(os.Args[0], filepath.Join(t.TempDir(), "none")) {
		t.Error("a file that is not there counts as the same")
	}
}

func TestContextNames(t *testing.T) {
	contexts := client.Contexts{Dir: t.TempDir()}
	save := func(dir string) string {
		p := &Playground{Dir: dir, host: Host{Contexts: &contexts}}
		if err := os.MkdirAll(p.path(pkiDir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p.files().CA, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := &state{Nodes: []member{{GRPC: "127.0.0.1:20000"}}}
		if err := p.saveContext(s); err != nil {
			t.Fatal(err)
		}
		return s.Context
	}
	a, b := filepath.Join(t.TempDir(), "playground"), filepath.Join(t.TempDir(), "playground")
	odd := filepath.Join(t.TempDir(), "my äpfel")
	for _, c := range []struct{ dir, want string }{
		{a, "playground"}, {b, "playground-2"}, {a, "playground"}, {odd, "playground-my-pfel"},
	} {
		if got := save(c.dir); got != c.want {
			t.Errorf("%s: %q, want %q", c.dir, got, c.want)
		}
	}
	if err := os.WriteFile(filepath.Join(contexts.Dir, "playground-own.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := save(filepath.Join(t.TempDir(), "own")); got != "playground-own-2" {
		t.Errorf("a file that somebody may still mend is written over: %q", got)
	}
	if err := os.RemoveAll(a); err != nil {
		t.Fatal(err)
	}
	if got := save(filepath.Join(t.TempDir(), "playground")); got != "playground" {
		t.Errorf("a context whose cluster is gone is not replaced: %q", got)
	}
}

func TestEnvironLeavesSettingsOut(t *testing.T) {
	got := environ([]string{"PATH=/bin", "THEMIS_NODE_ID=x", "HOME=/root", "THEMIS_OUTPUT=json"})
	if !slices.Equal(got, []string{"PATH=/bin", "HOME=/root"}) {
		t.Error(got)
	}
}

// TestFoundingThatBreaksOff leaves no process, and the next founding begins anew.
func TestFoundingThatBreaksOff(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	h := testHost(t, "silent")
	ended := make(chan error, 1)
	go func() {
		_, err := Found(ctx, dir, Default(), h)
		ended <- err
	}()
	eventually(t, "three processes", func() bool { return len(processesOf(t, dir)) == 3 })
	cancel()
	if err := <-ended; err == nil {
		t.Fatal("it counts as founded")
	}
	if left := processesOf(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(dir, client.PlaygroundFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", client.PlaygroundFile, err)
	}
	_, err := Open(dir, h)
	refused(t, err, themis.InvalidArgument, "was never finished")
	if p, err := OpenAny(dir, h); err != nil { // whatever its founding left can be ended
		t.Error(err)
	} else if n, err := p.Stop(t.Context()); err != nil || n != 0 {
		t.Errorf("%d processes stopped, %v", n, err)
	}

	h.Args = []string{"broken"}
	_, err = Found(bounded(t), dir, Default(), h)
	refused(t, err, themis.InvalidArgument, "node-1 ended right after its start", "this node is broken")
	if e, ok := errors.AsType[*themis.Error](err); !ok || !strings.Contains(e.Fix, filepath.Join(dir, "node-1", logName)) {
		t.Errorf("the fix does not name the log: %+v", e)
	}
}

func TestFoundRefusesAFinishedOne(t *testing.T) {
	p := made(t, "silent", 1)
	_, err := Found(bounded(t), p.Dir, Default(), p.host)
	refused(t, err, themis.RefusedUnsafe, p.Dir, "already")
	if info := must[Info](t)(p.Info()); info.Running != 1 {
		t.Errorf("%+v", info)
	}
}

// A directory in which somebody is making a playground, or was killed at it, is no other's.
func TestABegunPlaygroundIsClaimed(t *testing.T) {
	for name, fine := range map[string]bool{lockName: true, unfinished(stateName) + "17": true, "notes.txt": false, ".state.json": false} {
		p := &Playground{Dir: t.TempDir()}
		if err := os.WriteFile(p.path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.claim(); (err == nil) != fine {
			t.Errorf("beside %s: %v", name, err)
		}
	}
}
