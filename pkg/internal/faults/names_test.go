package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// named is a room of machines that know each other by name only: each node has a network and a host name of its own, and listens on the
// default ports; the operator sits at another one. What is typed is what the guides say, without addresses and ports.
type named struct {
	t   *testing.T
	dir string
	net *Net
	cli string
}

const operator = "operator"

func newNamed(t *testing.T, nodes ...string) *named {
	t.Helper()
	built := buildCLI(t)
	m := &named{t: t, dir: t.TempDir(), net: NewNet(t, append([]string{operator}, nodes...)...)}
	m.cli = built()
	lines := "127.0.0.1 localhost\n"
	for _, n := range nodes {
		lines += fmt.Sprintf("%s %s\n", m.net.Addr(n), n)
	}
	if err := os.WriteFile(m.path("hosts"), []byte(lines), 0o644); err != nil { //nolint:gosec // as /etc/hosts is
		t.Fatal(err)
	}
	m.must("", "pki", "init", "--cluster", "demo")
	m.must("", "pki", "issue", "--client", operator, "--capabilities", "read,write,admin")
	for _, n := range nodes {
		m.must("", "pki", "issue", "--node", n)
		m.start(n)
	}
	return m
}

func (m *named) path(parts ...string) string {
	return filepath.Join(append([]string{m.dir}, parts...)...)
}

// command is one that runs on that machine: its /etc/hosts and its host name are its own.
func (m *named) command(ctx context.Context, host string, args ...string) *exec.Cmd {
	script := `mount --bind "$1" /etc/hosts && echo "$2" > /proc/sys/kernel/hostname && shift 2 && exec "$@"`
	c := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--uts", "sh", "-c", script, "sh", m.path("hosts"), host}, args...)...)
	c.Dir = m.dir
	c.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + m.path("home"), "USER=" + operator,
		"THEMIS_CACERT=" + m.path("pki", "ca.crt"), "THEMIS_CERT=" + m.path("pki", operator+".crt"), "THEMIS_KEY=" + m.path("pki", operator+".key"),
	}
	return c
}

// start runs a node with nothing but its name, its directory and its certificate.
func (m *named) start(node string) {
	m.t.Helper()
	log, err := os.Create(m.path(node + ".log"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	c := m.command(context.Background(), node, themisd, "--id", node, "--data-dir", m.path(node),
		"--pki-cert", m.path("pki", node+".crt"), "--pki-key", m.path("pki", node+".key"), "--pki-ca", m.path("pki", "ca.crt"))
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.net.In(node, c.Start); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = c.Wait()
		if b, err := os.ReadFile(m.path(node + ".log")); err == nil && m.t.Failed() {
			m.t.Logf("%s:\n%s", node, b[max(0, len(b)-3000):])
		}
	})
}

// run types a command at the operator's machine, in a directory.
func (m *named) run(dir string, args ...string) (exit int, out, errOut string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute)
	defer cancel()
	c := m.command(ctx, operator, append([]string{m.cli}, args...)...)
	if dir != "" {
		c.Dir = dir
	}
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	err := m.net.In(operator, c.Start)
	if err == nil {
		err = c.Wait()
	}
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		return exited.ExitCode(), o.String(), e.String()
	}
	if err != nil {
		m.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return 0, o.String(), e.String()
}

func (m *named) must(dir string, args ...string) string {
	m.t.Helper()
	exit, out, errOut := m.run(dir, args...)
	if exit != 0 {
		m.t.Fatalf("themis-cli %s: exit %d\n%s%s", strings.Join(args, " "), exit, out, errOut)
	}
	return out
}

// A deployment in five steps: D-07 and D-08 as they are written, with four host names and default ports; then load, health and bench.
func TestFoundingByNames(t *testing.T) {
	nodes := "node-1,node-2,node-3,node-4"
	m := newNamed(t, strings.Split(nodes, ",")...)
	describe := []string{"node", "describe", "--endpoint", nodes}
	for deadline := time.Now().Add(30 * time.Second); ; {
		exit, out, errOut := m.run("", describe...)
		if exit == 0 && strings.Contains(out, "node-4:50051") && strings.Contains(out, "node-4:8765") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the nodes: exit %d\n%s%s", exit, out, errOut)
		}
		<-time.After(100 * time.Millisecond)
	}
	made := m.must("", strings.Fields("cluster init --nodes node-1,node-2,node-3,node-4 --shards 4 --replication-factor 2")...)
	want := `cluster demo is made

SHARD    MODE  COPIES  NODES
shard-1  sync  2       node-1,node-2
shard-2  sync  2       node-2,node-3
shard-3  sync  2       node-3,node-4
shard-4  sync  2       node-4,node-1

control plane: node-1,node-2,node-3
context: demo
next: themis-cli cluster health
`
	if made != want {
		t.Errorf("cluster init says\n%s\nwant\n%s", made, want)
	}
	if again := m.must("", "cluster", "init", "--nodes", nodes); !strings.Contains(again, "exists already; nothing was changed") {
		t.Errorf("again:\n%s", again)
	}

	m.must("", "cluster", "health", "--wait", "DEGRADED", "--quiet") // by the context that init wrote; a disk may be almost full
	health := m.must("", "cluster", "health", "--fail-on", "critical")
	for _, n := range strings.Split(nodes, ",") {
		if !strings.Contains(health, "PRIMARY [ok] "+n) || !strings.Contains(health, "REPLICA [ok] "+n) {
			t.Errorf("%s: not the primary of one shard and a replica of another:\n%s", n, health)
		}
	}
	m.must("", "doc", "put", "notes", "a", `{"n":1}`, "--endpoint", "node-4")
	if got := m.must("", "doc", "get", "notes", "a", "--endpoint", "node-2"); got != `{"n":1}` {
		t.Errorf("%q", got)
	}

	m.settings(`failover:
  probe_interval_ms: 700
`)
	apply := []string{"cluster", "apply-config", "config/sharding/shard-router.yaml"}
	applied := m.must("", apply...)
	want = `KEY                         OLD   NEW  EFFECT
failover.probe_interval_ms  1000  700  takes effect at once

applied as configuration version 1
`
	if applied != want {
		t.Errorf("apply-config says\n%s\nwant\n%s", applied, want)
	}
	for deadline := time.Now().Add(20 * time.Second); ; { // whoever is asked learns of it a moment later
		again := m.must("", append(apply, "--dry-run")...)
		if again == "nothing to change; configuration version 1 is in force\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("applied again:\n%s", again)
		}
		<-time.After(50 * time.Millisecond)
	}
	// The rest of a deployment in five steps: load, health, bench.
	loaded := m.must("", strings.Fields("load --config config/sharding/shard-router.yaml --dataset oltp --rows 2000 --workers 8")...)
	if !strings.Contains(loaded, "2000 of 2000") {
		t.Errorf("load says\n%s", loaded)
	}
	m.must("", "cluster", "health", "--fail-on", "critical")
	measured := m.must("", strings.Fields("bench --shards 4 --mix B --duration 1 --threads 16 --warm-up 0 --rows 500")...)
	if !strings.Contains(measured, "mix B (50 % reads, 50 % writes, 10 % cross-shard) on 500 rows of oltp") || !strings.Contains(measured, " 0 failed") {
		t.Errorf("bench says\n%s", measured)
	}

	m.settings("rebalance:\n  skew_treshold: 0.2\n")
	if exit, _, errOut := m.run("", apply...); exit != 2 || !strings.Contains(errOut, "config/sharding/shard-router.yaml:2: rebalance.skew_treshold: unknown key; did you mean rebalance.skew_threshold?") {
		t.Errorf("exit %d\n%s", exit, errOut)
	}
}

// settings writes the file that D-08 names.
func (m *named) settings(text string) {
	m.t.Helper()
	err := os.MkdirAll(m.path("config", "sharding"), 0o750)
	if err == nil {
		err = os.WriteFile(m.path("config", "sharding", "shard-router.yaml"), []byte(text), 0o600)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}
