package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/themis"
)

// fleet is nodes as processes of this binary, each with its own directory, certificate and ports.
type fleet struct {
	t     *testing.T
	dir   string
	names []string
	ports map[string][]string
	procs map[string]*exec.Cmd
}

const portsOfNode = 5

func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), ports: map[string][]string{}, procs: map[string]*exec.Cmd{}}
	for _, v := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(v, f.dir)
	}
	f.must("pki", "init", "--cluster", "demo", "--dir", f.path("pki"))
	f.must("pki", "issue", "--client", "op", "--capabilities", "read,write,admin", "--dir", f.path("pki"))
	f.must("pki", "issue", "--client", "reader", "--capabilities", "read", "--dir", f.path("pki"))
	free := loopback.Addrs(t, n*portsOfNode)
	for i := range n {
		name := fmt.Sprintf("node-%d", i+1)
		f.names = append(f.names, name)
		f.ports[name] = free[i*portsOfNode : (i+1)*portsOfNode]
		f.must("pki", "issue", "--node", name, "--loopback", "--dir", f.path("pki"))
	}
	t.Cleanup(func() {
		for _, name := range f.names {
			f.kill(name)
		}
		if t.Failed() {
			f.logs()
		}
	})
	b, err := os.ReadFile(airports)
	if err == nil {
		err = os.WriteFile(f.path("airports.ndjson"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range f.names {
		f.start(name)
	}
	return f
}

func (f *fleet) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *fleet) addr(name string, i int) string {
	return f.ports[name][i]
}

func (f *fleet) endpoints() string {
	var out []string
	for _, name := range f.names {
		out = append(out, f.addr(name, 0))
	}
	return strings.Join(out, ",")
}

func (f *fleet) start(name string) {
	f.t.Helper()
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	log, err := os.OpenFile(f.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // the process has its own
	c := exec.Command(self, "node-run", "--id", name, "--data-dir", f.path(name), "--grpc-listen", f.addr(name, 0), "--http-listen", f.addr(name, 1),
		"--metrics-listen", f.addr(name, 2), "--control-peer-listen", f.addr(name, 3), "--control-client-listen", f.addr(name, 4),
		"--pki-cert", f.path("pki", name+".crt"), "--pki-key", f.path("pki", name+".key"), "--pki-ca", f.path("pki", "ca.crt"),
		"--pki-issuer-key", f.path("pki", "ca.key"))
	c.Env = append(os.Environ(), beMain+"=1")
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.procs[name] = c
}

// kill is kill -9.
func (f *fleet) kill(name string) {
	if c := f.procs[name]; c != nil {
		_ = c.Process.Signal(syscall.SIGKILL)
		_ = c.Wait()
		delete(f.procs, name)
	}
}

func (f *fleet) logs() {
	for _, name := range f.names {
		b, _ := os.ReadFile(f.path(name + ".log"))
		f.t.Logf("%s:\n%s", name, b[max(0, len(b)-6000):])
	}
}

// cli runs a command as the operator.
func (f *fleet) cli(args ...string) (exit int, out, errOut string) { return f.as("op", args...) }

func (f *fleet) as(who string, args ...string) (exit int, out, errOut string) {
	if args[0] != "pki" {
		args = append(args, "--cacert", f.path("pki", "ca.crt"), "--cert", f.path("pki", who+".crt"), "--key", f.path("pki", who+".key"))
		if !slices.Contains(args, "--endpoint") {
			args = append(args, "--endpoint", f.endpoints())
		}
	}
	var o, e bytes.Buffer
	exit = run(f.t.Context(), args, strings.NewReader(""), &o, &e)
	return exit, o.String(), e.String()
}

// must runs a command that must exit 0 and answers its stdout.
func (f *fleet) must(args ...string) string {
	f.t.Helper()
	return f.exits(0, args...)
}

// exits runs a command that must have that exit code and answers its stdout, or where that is empty its stderr.
func (f *fleet) exits(want int, args ...string) string {
	f.t.Helper()
	exit, out, errOut := f.cli(args...)
	if exit != want {
		f.t.Fatalf("%s: exit %d, want %d\n%s\n%s", strings.Join(args, " "), exit, want, out, errOut)
	}
	if out == "" {
		return errOut
	}
	return out
}

func (f *fleet) contains(text string, parts ...string) {
	f.t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			f.t.Fatalf("%q is not in:\n%s", p, text)
		}
	}
}

// until waits for a report that fits.
func (f *fleet) until(what string, ok func(exit int, r health.Report) bool) health.Report {
	f.t.Helper()
	var out, errOut string
	var exit int
	for deadline := time.Now().Add(45 * time.Second); time.Now().Before(deadline); {
		var r health.Report
		exit, out, errOut = f.cli("cluster", "health", "-o", "json")
		if json.Unmarshal([]byte(out), &r) == nil && ok(exit, r) {
			return r
		}
		select {
		case <-f.t.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	f.t.Fatalf("%s did not come about: exit %d\n%s\n%s", what, exit, out, errOut)
	return health.Report{}
}

func serving(r health.Report) bool { return notServing(r) == "" }

func primaries(r health.Report, node themis.NodeID) (n int) {
	for _, s := range r.Shards {
		if s.Primary == node {
			n++
		}
	}
	return n
}

// eventually waits for a condition.
func (f *fleet) eventually(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			f.t.Fatalf("%s did not come about", what)
		}
		select {
		case <-f.t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (f *fleet) file(name, content string) string {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func (f *fleet) decode(text string, v any) {
	f.t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		f.t.Fatalf("%v in:\n%s", err, text)
	}
}
