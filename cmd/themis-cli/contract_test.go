package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/contract anew")

const contractDir = "testdata/contract"

// contractCase is one promise of the contract: what scripts may rely on. Its golden has the command or the request, the exit code or the status, and
// all that was answered.
type contractCase struct {
	line   string // of the contract
	golden string // file in testdata/contract
	run    func(*contract) string
}

func cli(args ...string) func(*contract) string {
	return func(c *contract) string { return c.cli(args...) }
}

func with(env, stdin string, args ...string) func(*contract) string {
	return func(c *contract) string { return c.exec([]string{env}, stdin, args...) }
}

func get(path string, header ...string) func(*contract) string {
	return func(c *contract) string { return c.http("GET", path, "", header...) }
}

func send(method, path, body string, header ...string) func(*contract) string {
	return func(c *contract) string { return c.http(method, path, body, header...) }
}

const (
	docs      = "/api/v1/collections/notes/documents"
	theErrors = "errors, the same on HTTP, gRPC and CLI: "
)

// healthy are the cases of a cluster that is well, in this order.
var healthy = []contractCase{
	{`DIR/playground.json {"cluster","ca_cert","client_cert","client_key","nodes":[{"id","pid",…}]}`, "playground.json.txt", func(c *contract) string { return c.file("playground.json") }},
	{"playground status -o json", "playground-status.txt", cli("playground", "status", "-o", "json")},
	{"playground status|stop|start: repeating a finished verb exits 0", "playground-start.txt", cli("playground", "start", "-o", "json")},
	{"playground node … ID", "playground-node.txt", cli("playground", "node", "start", "node-1", "-o", "json")},

	{"PUT /api/v1/collections/{collection}/documents/{key} 200", "http-put.txt", send("PUT", docs+"/a", `{"n": 1}`)},
	{"If-None-Match: * 412 VERSION_MISMATCH", "http-put-exists.txt", send("PUT", docs+"/a", `{"n": 2}`, "If-None-Match: *")},
	{"If-Match 412 VERSION_MISMATCH", "http-put-if-match.txt", send("PUT", docs+"/a", `{"n": 2}`, `If-Match: "0000000000000001"`)},
	{"GET …/documents/{key} 200, ETag, X-Themis-Shard, X-Themis-Session; the bytes as they were sent", "http-get.txt", get(docs + "/a")},
	{"GET ?consistency=eventual", "http-get-eventual.txt", get(docs + "/a?consistency=eventual")},
	{"GET ?consistency=session with the X-Themis-Session of an answer", "http-get-session.txt", func(c *contract) string {
		token := regexp.MustCompile(`X-Themis-Session: .*`).FindString(c.http("GET", docs+"/a", ""))
		return c.http("GET", docs+"/a?consistency=session", "", token)
	}},
	{"GET of nothing: NOT_FOUND 404", "http-get-404.txt", get(docs + "/none")},
	{"POST …/documents NDJSON: {written, failed, errors}", "http-post.txt", send("POST", docs+"?key_field=id", `{"id":"b","n":2}`+"\n{\n"+`{"n":3}`+"\n")},
	{"GET …/documents?limit= NDJSON in key-token order, X-Themis-Next", "http-list.txt", get(docs + "?limit=1")},
	{"?write_concern= weaker than the mode is raised; the answer names the effective one", "http-put-concern.txt", send("PUT", docs+"/c?write_concern=immediate", `3`)},
	{"Idempotency-Key: the first result again", "http-idempotent-1.txt", send("PUT", docs+"/d", `1`, "Idempotency-Key: once")},
	{"Idempotency-Key: the same answer and no second effect", "http-idempotent-2.txt", send("PUT", docs+"/d", `1`, "Idempotency-Key: once")},
	{"Idempotency-Key: another body: REQUEST_ID_REUSED 422", "http-idempotent-3.txt", send("PUT", docs+"/d", `2`, "Idempotency-Key: once")},
	{"DELETE …/documents/{key} 200 like PUT", "http-delete.txt", send("DELETE", docs+"/d", "")},
	{"DELETE of nothing 404", "http-delete-404.txt", send("DELETE", docs+"/d", "")},
	{"DELETE in a collection that there is not 404", "http-delete-no-collection.txt", send("DELETE", "/api/v1/collections/nothing/documents/d", "")},
	{"keys are percent-encoded in paths", "http-encoded.txt", send("PUT", docs+"/a%2Fb", `1`)},
	{theErrors + "INVALID_ARGUMENT 400, a key", "http-bad-key.txt", send("PUT", docs+"/"+strings.Repeat("k", 1025), `1`)},
	{theErrors + "INVALID_ARGUMENT 400, a collection", "http-bad-collection.txt", send("PUT", "/api/v1/collections/1st/documents/a", `1`)},
	{"names beginning with _ are the system's", "http-system.txt", send("PUT", "/api/v1/collections/_system/documents/a", `1`)},
	{theErrors + "INVALID_ARGUMENT 400, JSON", "http-bad-json.txt", send("PUT", docs+"/a", `{"n":`)},
	{theErrors + "INVALID_ARGUMENT 400, a parameter", "http-bad-parameter.txt", get(docs + "/a?consistency=perhaps")},
	{"?shard_key= only where the collection's rule differs from the document key", "http-shard-key.txt", send("PUT", docs+"/a?shard_key=other", `1`)},
	{"?shard_key= only where the collection's rule differs from the document key: a read", "http-shard-key-get.txt", get(docs + "/a?shard_key=other")},
	{"Idempotency-Key: at most 64 bytes", "http-bad-id.txt", send("PUT", docs+"/a", `1`, "Idempotency-Key: "+strings.Repeat("i", 65))},
	{theErrors + "TOO_LARGE 413", "http-too-large.txt", send("PUT", docs+"/a", `"`+strings.Repeat("x", themis.MaxDocumentBytes)+`"`)},
	{"any foreign Origin is 403: PERMISSION_DENIED", "http-origin.txt", get(docs+"/a", "Origin: http://evil.example")},
	{"plain requests need a Host of 127.0.0.1, [::1] or localhost", "http-host.txt", get(docs+"/a", "Host: evil.example")},
	{"GET /healthz", "http-healthz.txt", get("/healthz")},
	{"GET /readyz", "http-readyz.txt", get("/readyz")},
	{"GET of no path: NOT_FOUND", "http-no-path.txt", get("/nothing")},
}

// reports are those of the report, once it has seen all that was written.
var reports = []contractCase{
	{"cluster health -o json", "health-json.txt", cli("cluster", "health", "-o", "json")},
	{"--exit-style nagios: 0", "nagios-0.txt", cli("cluster", "health", "--exit-style", "nagios", "-o", "json", "--fail-on", "critical")},
	{"GET /cluster/health: the JSON of the CLI's -o json", "http-health.txt", get("/cluster/health")},
	{"GET /cluster/status: the JSON of the CLI's -o json", "http-status.txt", get("/cluster/status")},
	{"cluster status -o json", "status-json.txt", cli("cluster", "status", "-o", "json")},
	{"-o yaml: the same fields in the same order", "status-yaml.txt", cli("cluster", "status", "-o", "yaml")},
	{"-o table", "status-table.txt", cli("cluster", "status")},
	{"-o wide", "health-wide.txt", cli("cluster", "health", "-o", "wide")},
	{"cluster health: not a terminal: ASCII, no colour", "health-table.txt", cli("cluster", "health")},
	{"shard show", "shard-show.txt", cli("shard", "show", "1")},
	{"shard list -o json", "shard-list.txt", cli("shard", "list", "-o", "json")},
	{"node list", "node-list.txt", cli("node", "list")},
	{"cluster events -o ndjson", "events.txt", func(c *contract) string {
		return notDone.ReplaceAllString(c.cli("cluster", "events", "-o", "ndjson"), "")
	}},
	{"cluster rebalance-status -o json: not served", "rebalance-status.txt", cli("cluster", "rebalance-status", "-o", "json")},
	{"doc put -o json", "doc-put.txt", cli("doc", "put", "notes", "e", `{"n":5}`, "-o", "json", "--request-id", "r5")},
	{"doc get -o json", "doc-get.txt", cli("doc", "get", "notes", "e", "-o", "json")},
	{"doc get: the bytes", "doc-get-bytes.txt", cli("doc", "get", "notes", "e")},
	{"doc scan of nothing says so on stderr", "doc-scan-nothing.txt", cli("doc", "scan", "nothing")},
	{"--quiet: nothing on stderr but errors", "quiet.txt", cli("doc", "scan", "nothing", "--quiet")},
	{"stdout is for the answer, stderr for everything else", "doc-scan-limit.txt", cli("doc", "scan", "notes", "--limit", "1")},
	{"load: {written, failed, errors}", "load.txt", func(c *contract) string {
		return c.exec(nil, `{"_key":"x"}`+"\n"+`{"_key":"y"}`+"\n", "load", "-", "--collection", "loaded", "-o", "json")
	}},

	{"exit code 1, VERSION_MISMATCH on stderr as JSON", "exit-1-json.txt", cli("doc", "put", "notes", "e", "{}", "--if-none-match", "-o", "json")},
	{theErrors + "REQUEST_ID_REUSED, exit code 1", "exit-1-reused.txt", cli("doc", "put", "notes", "e", `{"n":6}`, "--request-id", "r5")},
	{"exit code 1, NOT_FOUND for people", "exit-1.txt", cli("doc", "get", "notes", "none")},
	{"exit code 2: wrong usage", "exit-2.txt", cli("cluster", "health", "--nope")},
	{"exit code 2: a shard key where no rule asks for one", "exit-2-shard-key.txt", cli("doc", "put", "notes", "e", "{}", "--shard-key", "other", "-o", "json")},
	{"exit code 4: not permitted", "exit-4.txt", func(c *contract) string {
		return c.cli("doc", "put", "notes", "e", "{}", "--cacert", c.dir("pki", "ca.crt"), "--cert", c.dir("pki", "reader.crt"), "--key", c.dir("pki", "reader.key"))
	}},
	{"exit code 7: partly done, says what", "exit-7.txt", with("", `{"_key":"x"}`+"\n{\n", "load", "-", "--collection", "loaded", "-o", "json")},
	{"exit code 8: refused for safety", "exit-8.txt", func(c *contract) string {
		return c.cli("pki", "init", "--cluster", "other", "--dir", c.dir("pki"))
	}},
	{"exit code 8: a copy that is in use is not removed", "exit-8-copy.txt", cli("shard", "remove-copy", "1", "node-2")},
	{"exit code 10: changes pending, only with --exit-code", "exit-10.txt", func(c *contract) string {
		return c.cli("cluster", "apply-config", c.write("settings.yaml", "failover:\n  probe_interval_ms: 700\n"), "--dry-run", "--exit-code")
	}},
	{"exit code 10 only with --exit-code", "exit-10-not.txt", func(c *contract) string {
		return c.cli("cluster", "apply-config", c.home("settings.yaml"), "--dry-run", "-o", "json")
	}},
	{"THEMIS_* variables stand for flags", "env.txt", with("THEMIS_OUTPUT=json", "", "context", "list")},
}

// hurt are those of a cluster whose second node was killed.
var hurt = []contractCase{
	{"exit code 1: DEGRADED or worse; the word DEAD only in the drawn box", "degraded-table.txt", cli("cluster", "health")},
	{"cluster health -o json: state FAILED", "degraded-json.txt", cli("cluster", "health", "-o", "json")},
	{"--fail-on critical", "degraded-fail-on.txt", cli("cluster", "health", "--fail-on", "critical")},
	{"--exit-style nagios 1: WARNING", "nagios-1.txt", cli("cluster", "health", "--exit-style", "nagios")},
	{"NOT_ENOUGH_REPLICAS 503 within timeout_ms; nothing was done", "http-not-enough.txt", send("PUT", docs+"/f?timeout_ms=300", `1`)},
	{"exit code 1, NOT_ENOUGH_REPLICAS for people", "exit-1-not-enough.txt", cli("doc", "put", "notes", "f", "1", "--timeout", "2s")},
	{"exit code 1, NOT_ENOUGH_REPLICAS as JSON", "exit-1-not-enough-json.txt", cli("doc", "put", "notes", "f", "1", "--timeout", "2s", "-o", "json")},
	{"exit code 9: gave up waiting", "exit-9.txt", cli("cluster", "health", "--wait", "HEALTHY", "--timeout", "2s", "-o", "json", "--quiet")},
	{"GET /readyz of a node that serves", "http-readyz-hurt.txt", get("/readyz")},
}

// paused are those of a cluster of one copy each, whose second node, the primary of shard-2, does not answer. The key of lone is there.
var paused = []contractCase{
	{theErrors + "DEADLINE 504: surely not done", "http-deadline.txt", get(lone + "?timeout_ms=700")},
	{"exit code 9, DEADLINE", "exit-9-deadline.txt", cli("doc", "get", "notes", loneKey, "--timeout", "2s")},
	{theErrors + "OUTCOME_UNKNOWN 504: it may have been done", "http-unknown.txt", send("PUT", lone+"?timeout_ms=700", "1")},
}

// cut are those of the same one, asked of that node while the first, the only control member, does not answer.
var cut = []contractCase{
	{"GET /readyz 503 with the reason: what the node leads may not be read", "http-readyz-cut.txt", func(c *contract) string { return c.httpOf(1, "GET", "/readyz", "") }},
}

// headless are those of the same one, with that node killed.
var headless = []contractCase{
	{theErrors + "NO_PRIMARY 503, a read", "http-no-primary.txt", get(lone + "?timeout_ms=500")},
	{theErrors + "NO_PRIMARY 503, a write: surely not done", "http-no-primary-put.txt", send("PUT", lone+"?timeout_ms=500", "1")},
	{"exit code 1, NO_PRIMARY for people", "exit-1-no-primary.txt", cli("doc", "get", "notes", loneKey, "--timeout", "2s")},
	{"exit code 1, NO_PRIMARY as JSON", "exit-1-no-primary-json.txt", cli("doc", "put", "notes", loneKey, "1", "--timeout", "2s", "-o", "json")},
}

// critical are those of the same one, once the node is FAILED.
var critical = []contractCase{
	{"cluster health -o json: status CRITICAL, exit code 1", "critical-json.txt", cli("cluster", "health", "-o", "json")},
	{"--fail-on critical", "critical-fail-on.txt", cli("cluster", "health", "--fail-on", "critical")},
	{"--exit-style nagios 2: CRITICAL", "nagios-2.txt", cli("cluster", "health", "--exit-style", "nagios")},
}

// operated are those of what operators change, and of the trail that it leaves.
var operated = []contractCase{
	{"cluster apply-config", "apply-config.txt", func(c *contract) string {
		return c.cli("cluster", "apply-config", c.write("settings.yaml", "failover:\n  probe_interval_ms: 700\n"))
	}},
	{"cluster apply-config: repeating a finished verb exits 0", "apply-config-again.txt", func(c *contract) string { return c.cli("cluster", "apply-config", c.home("settings.yaml")) }},
	{"replication set-mode", "set-mode.txt", cli("replication", "set-mode", "semi_sync", "-o", "json", "--quiet")},
	{"exit code 8: refused for safety, names the flag that overrides", "exit-8-force.txt", cli("node", "remove", "node-3")},
	{"node remove", "node-remove.txt", cli("node", "remove", "node-3", "--force")},
	{"node remove: repeating a finished verb exits 0", "node-remove-again.txt", cli("node", "remove", "node-3")},
	{"cluster events -o ndjson: apply_config, node_join, set_mode, node_remove done and refused", "events-operators.txt", func(c *contract) string {
		var out string
		c.until(func() bool {
			out = c.cli("cluster", "events", "-o", "ndjson")
			return strings.Count(out, `"action":"node_remove"`) == 2
		})
		lines := slices.DeleteFunc(strings.SplitAfter(out, "\n"), func(l string) bool {
			return strings.HasPrefix(l, "{") && (!strings.Contains(l, `"kind":"operator"`) || strings.Contains(l, `"cluster_init"`))
		})
		return strings.Join(lines, "")
	}},
}

const (
	loneKey = "b" // its token lies in shard-2 of two
	lone    = docs + "/" + loneKey
)

// gone are those of a cluster that does not run.
var gone = []contractCase{
	{"exit code 5: no endpoint answers", "exit-5.txt", cli("cluster", "health")},
	{"exit code 5, UNREACHABLE as JSON", "exit-5-json.txt", cli("doc", "get", "notes", "a", "-o", "json")},
	{"--exit-style nagios 3: UNKNOWN", "nagios-3.txt", cli("cluster", "health", "--exit-style", "nagios")},
	{"config show does not fail over a dead context", "config-show.txt", cli("config", "show", "--set")},
	{"playground status: STOPPED", "playground-stopped.txt", cli("playground", "status", "-o", "json")},
}

// contract is one playground of two nodes, one of them the only control member, so that who leads is no chance.
type contract struct {
	t     *testing.T
	bin   string
	root  string
	nodes client.Playground
}

// TestContract holds every shape that scripts may rely on, against a cluster of real processes.
func TestContract(t *testing.T) {
	t.Parallel()
	c := &contract{t: t, bin: built(t), root: t.TempDir()}
	t.Cleanup(func() { endPlaygrounds(t, c.root) })
	c.must("playground", "--data-dir", c.dir(), "--nodes", "2", "--shards", "1", "--control-nodes", "1", "--no-load", "--detach")
	c.must("pki", "issue", "--client", "reader", "--capabilities", "read", "--dir", c.dir("pki"))
	p, err := client.LoadPlayground(c.dir())
	if err != nil {
		t.Fatal(err)
	}
	c.nodes = p
	c.until(func() bool { // every node keeps what it saw last for a moment
		return strings.Contains(c.httpOf(0, "GET", "/cluster/health", ""), `"HEALTHY"`) && strings.Contains(c.httpOf(1, "GET", "/cluster/health", ""), `"HEALTHY"`)
	})
	c.all(healthy)
	c.until(func() bool {
		_, out := c.plain("cluster", "health", "-o", "json")
		return strings.Count(out, `"seq": 7`) == 2 && strings.Contains(out, `"documents": 4`) && strings.Count(out, `"applied": 7`) == 2
	})
	c.all(reports)
	t.Run("terminal.txt", func(t *testing.T) {
		goldenFile(t, "terminal.txt", "# NO_COLOR, a dumb terminal, and one that does not write UTF-8\n"+c.normal(c.onTerminals()))
	})
	c.must("playground", "node", "kill", "node-2")
	c.until(func() bool {
		_, out := c.plain("cluster", "health", "-o", "json")
		return strings.Contains(out, `"NODE_FAILED"`) && strings.Contains(out, "writes wait; no new copy") && strings.Contains(out, "no new copy is being built: ")
	})
	c.all(hurt)
	c.must("playground", "stop")
	c.all(gone)
	c.complete()
}

// TestContractOfAShardWithoutPrimary holds the errors of a shard whose only copy does not answer, or is gone.
func TestContractOfAShardWithoutPrimary(t *testing.T) {
	t.Parallel()
	c := &contract{t: t, bin: built(t), root: t.TempDir()}
	t.Cleanup(func() { endPlaygrounds(t, c.root) })
	c.must("playground", "--data-dir", c.dir(), "--nodes", "2", "--shards", "2", "--replication-factor", "1", "--mode", "NONE", "--control-nodes", "1", "--no-load", "--detach")
	p, err := client.LoadPlayground(c.dir())
	if err != nil {
		t.Fatal(err)
	}
	c.nodes = p
	if out := c.cli("doc", "put", "notes", loneKey, "{}", "-o", "json"); !strings.Contains(out, `"shard": "shard-2"`) {
		t.Fatalf("%s is not in shard-2:\n%s", loneKey, out)
	}
	if _, out := c.plain("shard", "show", "2", "-o", "json"); !strings.Contains(out, `"primary": "node-2"`) {
		t.Fatalf("node-2 does not lead shard-2:\n%s", out)
	}
	if out := c.http("GET", lone, ""); !strings.Contains(out, "200 OK") { // the first node has its connection to the second
		t.Fatal(out)
	}
	c.must("playground", "node", "pause", "node-2")
	c.all(paused)
	c.must("playground", "node", "resume", "node-2")
	c.must("playground", "node", "pause", "node-1")
	c.until(func() bool { return !strings.Contains(c.httpOf(1, "GET", "/readyz", ""), "200 OK") })
	c.all(cut)
	c.must("playground", "node", "resume", "node-1")
	c.until(func() bool {
		_, out := c.plain("cluster", "health", "-o", "json")
		return strings.Contains(c.http("GET", lone, ""), "200 OK") && !strings.Contains(out, `"NODE_FAILED"`) && !strings.Contains(out, `"NODE_SUSPECT"`)
	})
	c.must("playground", "node", "kill", "node-2")
	c.all(headless)
	c.until(func() bool {
		_, out := c.plain("cluster", "health", "-o", "json")
		return strings.Contains(out, `"NODE_FAILED"`) && strings.Contains(out, "no new copy is being built: its primary")
	})
	c.all(critical)
}

// TestContractOfOperators holds what is answered to those who change the cluster, and what the trail says of it.
func TestContractOfOperators(t *testing.T) {
	t.Parallel()
	c := &contract{t: t, bin: built(t), root: t.TempDir()}
	t.Cleanup(func() { endPlaygrounds(t, c.root) })
	c.make("--nodes", "2", "--shards", "1", "--control-nodes", "1")
	c.must("playground", "node", "add", "node-3")
	p, err := client.LoadPlayground(c.dir())
	if err != nil {
		t.Fatal(err)
	}
	c.nodes = p
	c.must("cluster", "health", "--wait", "HEALTHY", "--timeout", "30s")
	c.all(operated)
}

// complete finds goldens that no case holds any more.
func (c *contract) complete() {
	held := map[string]bool{"codes.txt": true, "terminal.txt": true}
	for _, k := range slices.Concat(healthy, reports, hurt, gone, paused, cut, headless, critical, operated, stalled, crowded, full, damaged) {
		if held[k.golden] {
			c.t.Errorf("%s is held twice", k.golden)
		}
		held[k.golden] = true
	}
	entries, err := os.ReadDir(contractDir)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		if !held[e.Name()] {
			c.t.Errorf("%s: no case holds it", e.Name())
		}
	}
}

func (c *contract) all(cases []contractCase) {
	for _, k := range cases {
		c.t.Run(k.golden, func(t *testing.T) { goldenFile(t, k.golden, "# "+k.line+"\n"+c.normal(k.run(c))) })
	}
}

// goldenFile compares with a file of testdata/contract, or writes it.
func goldenFile(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join(contractDir, name)
	if *rewrite {
		if err := errors.Join(os.MkdirAll(contractDir, 0o750), os.WriteFile(file, []byte(got), 0o600)); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		a, b := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		i := 0
		for i < min(len(a), len(b)) && a[i] == b[i] {
			i++
		}
		t.Errorf("%s differs from line %d on: got\n%s\nwant\n%s", file, i+1, strings.Join(a[i:min(len(a), i+8)], "\n"), strings.Join(b[i:min(len(b), i+8)], "\n"))
	}
}

func (c *contract) dir(parts ...string) string {
	return filepath.Join(append([]string{c.root, "pg"}, parts...)...)
}

func (c *contract) home(name string) string { return filepath.Join(c.root, name) }

func (c *contract) write(name, content string) string {
	if err := os.WriteFile(c.home(name), []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return c.home(name)
}

func (c *contract) file(name string) string {
	b, err := os.ReadFile(c.dir(name))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

func (c *contract) command(env []string, stdin string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(c.t.Context(), playgroundPatience)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Dir, cmd.Stdin = c.root, strings.NewReader(stdin)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.root, "USER=tester", "TZ=UTC"}
	for _, kv := range env {
		if kv != "" {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return cmd
}

func (c *contract) cli(args ...string) string { return c.exec(nil, "", args...) }

// exec runs a command and tells all of it.
func (c *contract) exec(env []string, stdin string, args ...string) string {
	var out, errOut bytes.Buffer
	cmd := c.command(env, stdin, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	exit := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		exit = e.ExitCode()
	} else if err != nil {
		c.t.Fatal(err)
	}
	text := "$ themis-cli " + strings.Join(args, " ") + "\n"
	if len(env) > 0 && env[0] != "" {
		text = "$ " + env[0] + " " + text[2:]
	}
	text += fmt.Sprintf("exit %d\n", exit)
	for _, part := range []struct{ name, text string }{{"stdout", out.String()}, {"stderr", errOut.String()}} {
		if part.text != "" {
			text += "-- " + part.name + " --\n" + strings.TrimSuffix(part.text, "\n") + "\n"
		}
	}
	return text
}

func (c *contract) plain(args ...string) (int, string) {
	cmd := c.command(nil, "", args...)
	out, _ := cmd.CombinedOutput() //nolint:errcheck // the exit code is asked for
	return cmd.ProcessState.ExitCode(), string(out)
}

func (c *contract) must(args ...string) {
	c.t.Helper()
	if exit, out := c.plain(args...); exit != 0 {
		c.t.Fatalf("%s: exit %d\n%s", strings.Join(args, " "), exit, out)
	}
}

func (c *contract) until(ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(playgroundPatience); !ok(); {
		if time.Now().After(deadline) {
			c.t.Fatal("it did not come about")
		}
		<-time.After(50 * time.Millisecond)
	}
}

// http sends a request to the first node and tells all of the answer.
func (c *contract) http(method, path, body string, header ...string) string {
	return c.httpOf(0, method, path, body, header...)
}

func (c *contract) httpOf(node int, method, path, body string, header ...string) string {
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+c.nodes.Nodes[node].HTTP+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	shown := method + " " + path
	if len(shown) > 200 {
		shown = fmt.Sprintf("%s… (%d bytes)", shown[:100], len(path))
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
		shown += "\n" + h
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // only read from
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	text := fmt.Sprintf("%s\n%s\n", shown, res.Status)
	for _, name := range []string{"Content-Type", "ETag", "X-Themis-Shard", "X-Themis-Session", "X-Themis-Next", "Retry-After"} {
		if v := res.Header.Get(name); v != "" {
			text += name + ": " + v + "\n"
		}
	}
	var pretty bytes.Buffer
	if strings.HasPrefix(path, "/cluster/") && json.Indent(&pretty, b, "", "  ") == nil {
		b = pretty.Bytes()
	}
	return text + strings.TrimSuffix(string(b), "\n") + "\n"
}

// notDone are what the controller held back while the second node was still starting.
var notDone = regexp.MustCompile(`(?m)^.*"outcome":"not_done".*\n`)

// varying are the values that differ from run to run, and only they: addresses, paths, times, ids, versions, sizes on disk, ages.
var varying = []struct {
	what *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?`), "TIME"},
	{regexp.MustCompile(`("?(last_heartbeat_ms|age_ms|uptime_ms|disk_used_ratio|disk_free_bytes|revision|pid|lag_ms|duration_ms|ms|for_ms|lag_bytes|bytes|documents_per_second|disk)"?: ?)"?[0-9][0-9.e+-]*"?`), "${1}N"},
	{regexp.MustCompile(`(\bdisk"?: ?)"?[0-9a-z]+"?`), "${1}DISK"},
	{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "VERSION"},
	{regexp.MustCompile(`\b0/[0-9A-F]{8}\b`), "LSN"},
	{regexp.MustCompile(`("?(session_token|X-Themis-Session|X-Themis-Next)"?: ?"?)[A-Za-z0-9_-]+`), "${1}TOKEN"},
	{regexp.MustCompile(`(--after )[A-Za-z0-9_-]+`), "${1}TOKEN"},
	{regexp.MustCompile(`("(run|request_id)": ?")[a-z0-9-]{8,}"`), `${1}ID"`},
	{regexp.MustCompile(`"id":"VERSION-node-[0-9]-[0-9]+"`), `"id":"EVENT"`},
	{regexp.MustCompile(`(serial |"cert":")[0-9A-Fa-f:]+`), "${1}SERIAL"},
	{regexp.MustCompile(`("keys":\["|"(peer_url|client_url)":")[^"]+`), "${1}VALUE"},
	{regexp.MustCompile(`("member_id":)[0-9]+`), "${1}N"},
	{regexp.MustCompile(`\bsilent for [0-9.]+ s\b`), "silent for N s"},
	{regexp.MustCompile(`(\bfor|\bis|"for":) ("?)[0-9.]+ (ms|s)\b`), "$1 ${2}N s"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d\b`), "CLOCK"},
	{regexp.MustCompile(`\b[0-9.]+ (KiB|MiB|B)\b`), "SIZE"},
	{regexp.MustCompile(`\bin [0-9]+ ms\b`), "in N ms"},
	{regexp.MustCompile(`(  )[0-9.]+m?s\b`), "${1}AGE"},
	{regexp.MustCompile(`\b[0-9]+\.[0-9]{2} s  `), "N s  "},
	{regexp.MustCompile(`\b[0-9.]+%`), "N%"},
	{regexp.MustCompile(`\bfile \d{6}: block \d+/\d+: crc32c checksum mismatch [0-9a-f]+ != [0-9a-f]+`), "file N: block N: crc32c checksum mismatch N != N"},
}

var (
	// disks are what is said of this machine's own disk.
	disks = []*regexp.Regexp{
		regexp.MustCompile(`(?s)\s*\{\s*"code": "DISK_ALMOST_FULL".*?"fix": "[^"]*"\s*\},?`),
		regexp.MustCompile(`(?m)^  - code: DISK_ALMOST_FULL\n(    .*\n)*`),
		regexp.MustCompile(`(?m)^\S+ DISK_ALMOST_FULL .*\n   why:.*\n   next:.*\n`),
	}
	lineBreaks = regexp.MustCompile(`\n {9}(\S)`) // a text breaks elsewhere where a path is longer
	gaps       = regexp.MustCompile(`(\S) {2,}`)  // a column is as wide as its widest value
)

// normal is a text without them.
func (c *contract) normal(text string) string {
	text = strings.ReplaceAll(text, c.dir(), "DIR")
	text = strings.ReplaceAll(text, c.root, "HOME")
	for _, n := range c.nodes.Nodes {
		for addr, name := range map[string]string{n.GRPC: "grpc", n.HTTP: "http", n.Metrics: "metrics"} {
			text = strings.ReplaceAll(text, addr, string(n.ID)+":"+name)
		}
	}
	text = lineBreaks.ReplaceAllString(text, " $1")
	for _, d := range disks {
		text = d.ReplaceAllString(text, "")
	}
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if !strings.HasPrefix(l, "|") && !strings.HasPrefix(l, "│") && !strings.HasPrefix(l, "+") {
			lines[i] = gaps.ReplaceAllString(l, "$1  ")
		}
	}
	text = strings.Join(lines, "\n")
	for _, v := range varying {
		text = v.what.ReplaceAllString(text, v.to)
	}
	return text
}

// TestContractCodes holds the contract's table of codes: their HTTP status, exit code and whether to retry.
func TestContractCodes(t *testing.T) {
	var b strings.Builder
	b.WriteString("# errors: codes, their HTTP status and exit code\n")
	for _, i := range themis.Codes() {
		fmt.Fprintf(&b, "%-20s %d exit %d retryable %v\n", i.Code, i.Status, i.Exit, i.Retryable)
	}
	goldenFile(t, "codes.txt", b.String())
}
