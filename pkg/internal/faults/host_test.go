package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// themisd is the binary under test, built once.
var themisd string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "themis-faults-*")
	if err == nil {
		themisd = filepath.Join(dir, "themisd")
		var out []byte
		if out, err = exec.Command("go", "build", "-tags", tags, "-o", themisd, "../../../cmd/themisd").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// hosts is a cluster of real processes.
type hosts struct {
	t     *testing.T
	dir   string
	names []string
	disk  map[string]string // data directories
	wrap  []string          // a command in front of themisd, such as strace
	args  []string          // further flags
	roles map[string]string // of nodes that aren't active
	net   *Net              // nil: all on loopback
	ask   []string          // whom report asks; nil: whoever runs
	pool  *rpc.Pool
	http  *http.Client

	onDisk map[string]map[int]bool // by node, the values that its logs held when somebody looked

	mu     sync.Mutex
	proc   map[string]*process
	paused map[string]bool              // clients leave them alone; what they had asked before hangs
	addr   map[string]map[string]string // grpc, http, peer, client: the same at every start, unless it is moved
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

type setup struct {
	names  []string
	disk   func(name string) string // default: a directory of the test
	wrap   []string
	args   []string
	net    bool // each node in a network namespace of its own, the test in another
	shards int
	rf     int
	mode   themis.Mode
	k      int
	roles  map[string]string // default: active
	// control is how many nodes are members of the control plane; 0: three
	control int
}

// client is the host of the test itself in a network of its own.
const client = "client"

func newHosts(t *testing.T, s setup) *hosts {
	t.Helper()
	if s.names == nil {
		s.names = []string{"node-1", "node-2", "node-3"}
	}
	h := &hosts{t: t, dir: t.TempDir(), names: s.names, disk: map[string]string{}, wrap: s.wrap, args: s.args, roles: map[string]string{}, proc: map[string]*process{}, paused: map[string]bool{}, addr: map[string]map[string]string{}}
	if s.net {
		h.net = NewNet(t, append([]string{client}, s.names...)...)
	}
	h.http = &http.Client{Timeout: 12 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	h.pki()
	h.place(s)
	t.Cleanup(func() {
		for _, n := range h.names {
			h.resume(n)
			h.kill(n)
		}
		_ = h.pool.Close()
		h.http.CloseIdleConnections()
		if t.Failed() {
			h.logs()
		}
	})
	for _, n := range s.names {
		h.start(n)
	}
	h.found(s)
	h.until("the cluster is HEALTHY", 30*time.Second, func(r health.Report) bool { return r.Status == health.Healthy })
	return h
}

// place gives every node its directory and its addresses.
func (h *hosts) place(s setup) {
	h.t.Helper()
	var free []string
	if h.net == nil {
		free = loopback.Addrs(h.t, len(parts)*len(s.names))
	}
	for i, n := range s.names {
		h.disk[n] = filepath.Join(h.dir, n)
		if s.disk != nil {
			h.disk[n] = s.disk(n)
		}
		h.addr[n] = map[string]string{}
		for j, what := range parts {
			if h.net != nil {
				h.addr[n][what] = fmt.Sprintf("%s:%d", h.net.Addr(n), ownPorts[j])
			} else {
				h.addr[n][what] = free[len(parts)*i+j]
			}
		}
		if role := s.roles[n]; role != "" {
			h.roles[n] = role
		}
	}
}

// What a node listens on, and where in a network of its own.
var (
	parts    = []string{"grpc", "http", "metrics", "peer", "client"}
	ownPorts = []uint16{50051, 8765, 9090, 2380, 2379}
)

func (h *hosts) pki() {
	h.t.Helper()
	dir := filepath.Join(h.dir, "pki")
	ca, err := pki.NewCA(pki.CAOptions{Cluster: "demo"})
	if err == nil {
		err = ca.Save(dir)
	}
	issue := func(r pki.Request, name string) {
		if err == nil {
			var is *pki.Issued
			if is, err = ca.Issue(r); err == nil {
				err = is.Save(pki.FilesIn(dir, name))
			}
		}
	}
	for _, n := range h.names {
		r := pki.Request{Node: themis.NodeID(n), Datacenter: "dc1", Capabilities: []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}, Loopback: true}
		if h.net != nil {
			r.IPs = append(r.IPs, h.net.Addr(n))
		}
		issue(r, n)
	}
	issue(pki.Request{Client: "operator", Capabilities: []string{pki.Read, pki.Write, pki.Admin}}, "operator")
	if err != nil {
		h.t.Fatal(err)
	}
	src, err := pki.Open(pki.FilesIn(dir, "operator"), pki.Options{})
	if err == nil {
		o := rpc.PoolOptions{Source: src}
		if h.net != nil {
			o.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return h.net.Dial(ctx, client, addr) }
			h.http.Transport = h.overTLS(src)
		}
		h.pool, err = rpc.NewPool(o)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// overTLS is how HTTP goes from the test's own host to the nodes'.
func (h *hosts) overTLS(src *pki.Source) *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 64, DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		conn, err := h.net.Dial(ctx, client, addr)
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(addr)
		c := tls.Client(conn, src.ClientConfig("", host))
		if err := c.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return c, nil
	}}
}

// url is where a node answers over HTTP.
func (h *hosts) url(node, path string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.net != nil {
		return "https://" + h.addr[node]["http"] + path
	}
	return "http://" + h.addr[node]["http"] + path
}

func (h *hosts) start(name string) {
	h.t.Helper()
	if !h.comesUp(name) {
		h.t.Fatalf("%s does not come up", name)
	}
}

// comesUp starts a node and says whether it answers.
func (h *hosts) comesUp(name string) bool {
	h.t.Helper()
	a, files := h.addr[name], pki.FilesIn(filepath.Join(h.dir, "pki"), name)
	args := append(append([]string{}, h.wrap...), themisd,
		"--id", name, "--data-dir", h.disk[name], "--grpc-listen", a["grpc"], "--http-listen", a["http"], "--metrics-listen", a["metrics"],
		"--control-peer-listen", a["peer"], "--control-client-listen", a["client"], "--http-plain-loopback", "full",
		"--pki-cert", files.Cert, "--pki-key", files.Key, "--pki-ca", files.CA, "--replication-timeout-ms", "1000", "--role", or(h.roles[name], "active"))
	args = append(args, h.args...)
	log, err := os.OpenFile(filepath.Join(h.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	p := &process{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start := p.cmd.Start
	if h.net != nil {
		start = func() error { return h.net.In(name, p.cmd.Start) }
	}
	if err := start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	h.mu.Lock()
	h.proc[name] = p
	h.mu.Unlock()
	deadline := time.Now().Add(20 * time.Second)
	for !h.answers(name) {
		if time.Now().After(deadline) {
			return false
		}
		select {
		case <-p.done:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

func (h *hosts) answers(name string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	if h.net != nil { // from beside it: what is cut between others does not matter here
		dial = func(ctx context.Context, addr string) (net.Conn, error) { return h.net.Dial(ctx, name, addr) }
	}
	c, err := dial(ctx, h.addr[name]["http"])
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func (h *hosts) signal(name string, s syscall.Signal) *process {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.proc[name]
	if p == nil {
		return nil
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, s)
	return p
}

func (h *hosts) kill(names ...string) {
	for _, n := range names {
		h.signal(n, syscall.SIGKILL)
	}
	for _, n := range names {
		h.mu.Lock()
		p := h.proc[n]
		delete(h.proc, n)
		h.mu.Unlock()
		if p != nil {
			<-p.done
		}
	}
}

func (h *hosts) pause(name string) {
	h.mu.Lock()
	h.paused[name] = true
	h.mu.Unlock()
	h.signal(name, syscall.SIGSTOP)
}

func (h *hosts) resume(name string) {
	h.signal(name, syscall.SIGCONT)
	h.mu.Lock()
	delete(h.paused, name)
	h.mu.Unlock()
}

func (h *hosts) running() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.names {
		if h.proc[n] != nil && !h.paused[n] {
			out = append(out, n)
		}
	}
	return out
}

// said is how many times the words stand in the nodes' logs.
func (h *hosts) said(words string, nodes ...string) (times int) {
	h.t.Helper()
	for _, n := range nodes {
		b, err := os.ReadFile(filepath.Join(h.dir, n+".log"))
		if err != nil {
			h.t.Fatal(err)
		}
		times += strings.Count(string(b), words)
	}
	return times
}

// happened is whether the audit trail, as some node that runs has it, tells that the node did that.
func (h *hosts) happened(t *testing.T, node, action, subject, reason string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	one := h.running()[0]
	c, err := h.pool.Admin(ctx, h.addr[one]["grpc"], themis.NodeID(one))
	if err != nil {
		t.Fatal(err)
	}
	trail, err := c.ListEvents(ctx, &nodev1.ListEventsRequest{})
	if err != nil {
		t.Logf("the trail, from %s: %v", one, err)
		return false
	}
	return slices.ContainsFunc(trail.GetEventsJson(), func(b []byte) bool {
		var e cluster.Event
		return json.Unmarshal(b, &e) == nil && e.Actor.ID == node && e.Action == action && e.Subject == subject && e.Outcome == "done" && strings.Contains(e.Reason, reason)
	})
}

// logs shows what the nodes said last.
func (h *hosts) logs() {
	for _, n := range h.names {
		b, err := os.ReadFile(filepath.Join(h.dir, n+".log"))
		if err != nil {
			continue
		}
		var lines []string
		for l := range strings.SplitSeq(string(b), "\n") {
			if !strings.Contains(l, "part=etcd") {
				lines = append(lines, l)
			}
		}
		h.t.Logf("=== %s\n%s", n, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

func (h *hosts) found(s setup) {
	h.t.Helper()
	args := map[string]any{"name": "demo", "shards": or(s.shards, 4), "replication_factor": or(s.rf, 2), "min_sync_replicas": or(s.k, 1), "redundancy": "MIRROR", "mode": or(s.mode, themis.Sync), "control_nodes": s.control}
	var addrs []string
	for _, n := range h.names {
		addrs = append(addrs, h.addr[n]["grpc"])
	}
	args["nodes"] = addrs
	b, err := json.Marshal(args)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), 40*time.Second)
	defer cancel()
	c, err := h.pool.Admin(ctx, addrs[0], themis.NodeID(h.names[0]))
	if err == nil {
		_, err = c.Act(ctx, &nodev1.ActRequest{Verb: "cluster.init", ArgsJson: b})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// report asks whoever answers.
func (h *hosts) report() (r health.Report, err error) {
	asked := h.running()
	if h.ask != nil {
		asked = h.ask
	}
	for _, n := range asked {
		var resp *http.Response
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, h.url(n, "/cluster/health"), nil)
		if resp, err = h.http.Do(req); err == nil {
			var b []byte
			b, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s: %s", resp.Status, b)
			}
			if err == nil {
				r = health.Report{}
				err = json.Unmarshal(b, &r)
			}
		}
		cancel()
		if err == nil {
			return r, nil
		}
	}
	return r, err
}

// within says whether it comes about in time.
func (h *hosts) within(limit time.Duration, ok func(health.Report) bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if r, err := h.report(); err == nil && ok(r) {
			return true
		}
		<-time.After(100 * time.Millisecond)
	}
	return false
}

func (h *hosts) until(what string, limit time.Duration, ok func(health.Report) bool) health.Report {
	h.t.Helper()
	var r health.Report
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if r, err = h.report(); err == nil && ok(r) {
			return r
		}
		<-time.After(100 * time.Millisecond)
	}
	b, _ := json.MarshalIndent(r, "", " ")
	h.t.Fatalf("within %s it did not come about that %s: %v\n%s", limit, what, err, b)
	return r
}

// request sends one document request to a node and returns status and body; status 0: no answer.
func (h *hosts) request(method, node, key, body string, header ...string) (int, string) {
	status, answer, _ := h.exchange(method, node, key, body, header...)
	return status, answer
}

// exchange is request, with the version of the document that was read or written.
func (h *hosts) exchange(method, node, key, body string, header ...string) (status int, answer, version string) {
	req, err := http.NewRequestWithContext(context.Background(), method, h.url(node, "/api/v1/collections/things/documents/"+key), bytes.NewReader([]byte(body)))
	if err != nil {
		h.t.Error(err)
		return 0, "", ""
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return 0, err.Error(), ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error(), ""
	}
	return resp.StatusCode, string(b), resp.Header.Get("ETag")
}

// leads is the primary of the shard, and its other voters.
func leads(r health.Report, shard string) (primary string, others []string) {
	s, _ := r.Shard(themis.ShardID(shard))
	for _, rep := range s.Replicas {
		if rep.Role == health.Primary {
			primary = string(rep.Node)
		} else {
			others = append(others, string(rep.Node))
		}
	}
	return primary, others
}
