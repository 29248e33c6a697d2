package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/pkg/client"
)

// stalled are those of a cluster of two whose second node has just stopped answering: each is asked while it is not yet known to have failed.
var stalled = []contractCase{
	{"exit code 1, OUTCOME_UNKNOWN for people: it may have been done", "exit-1-unknown.txt", cli("doc", "put", "notes", "u", "1", "--timeout", "2s", "--request-id", "u1")},
	{"exit code 1, OUTCOME_UNKNOWN as JSON", "exit-1-unknown-json.txt", cli("doc", "put", "notes", "u", "2", "--timeout", "2s", "--request-id", "u2", "-o", "json")},
}

// crowded are those of a shard for whose second copy as many writes wait as may.
var crowded = []contractCase{
	{theErrors + "OVERLOADED 503: a queue is full", "http-overloaded.txt", send("PUT", docs+"/o", "1")},
	{"exit code 1, OVERLOADED for people", "exit-1-overloaded.txt", known("doc", "put", "notes", "o", "1", "--timeout", "1s")},
	{"exit code 1, OVERLOADED as JSON", "exit-1-overloaded-json.txt", known("doc", "put", "notes", "o", "1", "--timeout", "1s", "-o", "json")},
}

// full are those of nodes whose disk is full.
var full = []contractCase{
	{theErrors + "READ_ONLY 503: the disk is full", "http-read-only.txt", send("PUT", docs+"/r", "1")},
	{"exit code 1, READ_ONLY for people", "exit-1-read-only.txt", known("doc", "put", "notes", "r", "1", "--timeout", "1s")},
	{"exit code 1, READ_ONLY as JSON", "exit-1-read-only-json.txt", known("doc", "put", "notes", "r", "1", "--timeout", "1s", "-o", "json")},
	{"reads go on", "http-read-only-get.txt", get(docs + "/first")},
}

// damaged are those of a shard whose only copy has a flipped bit in a table.
var damaged = []contractCase{
	{theErrors + "CORRUPT 500: never a wrong document", "http-corrupt.txt", (*contract).damage},
}

// known is cli, once more where a busy machine gave no answer in time: then the outcome is open.
func known(args ...string) func(*contract) string {
	return func(c *contract) (got string) {
		c.until(func() bool {
			got = c.cli(args...)
			return !strings.Contains(strings.ToLower(got), "not known whether the write was done")
		})
		return got
	}
}

const queueWrites = 4096 // that may wait for copies of a shard

// TestContractOfFaults holds the errors that take a fault of their own: a follower that stands still, a full queue, a full disk.
func TestContractOfFaults(t *testing.T) {
	t.Parallel()
	c := &contract{t: t, bin: built(t), root: smallDisk(t)}
	t.Cleanup(func() { endPlaygrounds(t, c.root) })
	c.make("--nodes", "2", "--shards", "1", "--control-nodes", "1")
	c.http("PUT", docs+"/first", "1")
	for _, k := range stalled {
		c.whilePaused("node-2", func() { c.all([]contractCase{k}) })
		c.must("cluster", "health", "--wait", "HEALTHY", "--timeout", "30s")
	}
	c.whilePaused("node-2", func() { c.whileCrowded(func() { c.all(crowded) }) })
	c.must("cluster", "health", "--wait", "HEALTHY", "--timeout", "30s")

	room := c.fill(50 << 20)
	c.until(func() bool {
		_, out := c.plain("cluster", "health", "-o", "json")
		return strings.Count(out, `"DISK_FULL"`) == 2 && strings.Contains(out, `"SHARD_READ_ONLY"`)
	})
	c.all(full)
	room()
	c.must("cluster", "health", "--wait", "HEALTHY", "--timeout", "30s")
}

// TestContractOfADamagedTable holds the error of a document whose only copy can't be read.
func TestContractOfADamagedTable(t *testing.T) {
	t.Parallel()
	c := &contract{t: t, bin: built(t), root: t.TempDir()}
	t.Cleanup(func() { endPlaygrounds(t, c.root) })
	c.make("--nodes", "2", "--shards", "2", "--replication-factor", "1", "--mode", "NONE", "--control-nodes", "1")
	settings := c.dir("node-2", "themisd.yaml")
	c.must("playground", "node", "stop", "node-2")
	b, err := os.ReadFile(settings)
	if err == nil {
		err = os.WriteFile(settings, append(b, "store:\n  memtable_mb: 1\n"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.must("playground", "node", "start", "node-2")
	c.all(damaged)
}

// damage flips a bit of a stored document until a reader sees it, and answers what it is told, as if the document were lone. A node that
// has read the block lately still has it in memory; then another document is damaged.
func (c *contract) damage() (got string) {
	c.t.Helper()
	store, filler := c.dir("node-2", "data", "shards", "shard-2", "store"), strings.Repeat("-", 700_000)
	stored := func(path, text string) bool {
		return strings.Contains(c.http("PUT", path, `"`+text+`"`), "X-Themis-Shard: shard-2")
	}
	at, n := lone, 0
	c.until(func() bool {
		run := rand.Text() // compression leaves it as it is
		if stored(at, filler+run) {
			var name string
			for more := fmt.Sprintf("%s/more-%d-", docs, n); name == "" && n%50 < 49; n++ { // a table is written when more is collected than fits
				if path := fmt.Sprint(more, n); stored(path, filler) {
					c.http("GET", path, "") // and with it all before it is in the store, which reads nothing any more
				}
				name = tableWith(c.t, store, run)
			}
			if name != "" && flip(name, run) == nil {
				got = strings.ReplaceAll(c.http("GET", at, ""), at, lone)
			}
		}
		n++
		at = fmt.Sprintf("%s/b-%d", docs, n)
		return strings.Contains(got, "500 ")
	})
	return got
}

// make makes the playground and learns its nodes.
func (c *contract) make(args ...string) {
	c.t.Helper()
	c.must(append([]string{"playground", "--data-dir", c.dir(), "--no-load", "--detach"}, args...)...)
	p, err := client.LoadPlayground(c.dir())
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes = p
}

// whilePaused does it while a node stands still.
func (c *contract) whilePaused(node string, do func()) {
	c.t.Helper()
	for _, n := range c.nodes.Nodes {
		if string(n.ID) != node {
			continue
		}
		if err := syscall.Kill(n.Pid, syscall.SIGSTOP); err != nil {
			c.t.Fatal(err)
		}
		defer func() {
			if err := syscall.Kill(n.Pid, syscall.SIGCONT); err != nil {
				c.t.Error(err)
			}
		}()
	}
	do()
}

// whileCrowded does it while as many writes wait as may.
func (c *contract) whileCrowded(do func()) {
	c.t.Helper()
	c.until(func() bool { return c.queued() == 0 })
	ctx, cancel := context.WithCancel(c.t.Context())
	var writes sync.WaitGroup
	defer writes.Wait()
	defer cancel()
	for range queueWrites {
		writes.Go(func() {
			for ctx.Err() == nil { // of too many connections at once some are closed
				req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+c.nodes.Nodes[0].HTTP+docs+"/q?timeout_ms=60000", strings.NewReader("1"))
				if err != nil {
					c.t.Error(err)
					return
				}
				if res, err := http.DefaultClient.Do(req); err == nil {
					_ = res.Body.Close()
					if ctx.Err() == nil {
						c.t.Errorf("a write that was to wait: %s", res.Status)
					}
				}
			}
		})
	}
	c.until(func() bool { return c.queued() == queueWrites })
	do()
}

// queued is how many writes wait for copies of the first shard; -1 while new ones don't.
func (c *contract) queued() int {
	_, out := c.plain("cluster", "health", "-o", "json")
	var r struct {
		Shards []struct {
			Writable bool `json:"writable"`
			Queued   int  `json:"queued_writes"`
		} `json:"shards"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Shards) == 0 || r.Shards[0].Writable {
		return -1
	}
	return r.Shards[0].Queued
}

// smallDisk is a directory on a file system of its own.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", dir).CombinedOutput(); err != nil {
		if os.Getenv("THEMIS_REQUIRE_ROOT") == "1" {
			t.Fatalf("this test needs a disk of its own, and THEMIS_REQUIRE_ROOT=1 says that it must run: %v\n%s", err, out)
		}
		t.Skipf("needs root and a disk of its own: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() }) //nolint:gosec,noctx // our own mount
	return dir
}

// fill leaves so many bytes of room on the disk until the returned function is called.
func (c *contract) fill(leave int64) (empty func()) {
	c.t.Helper()
	var st unix.Statfs_t
	f, err := os.Create(c.home("filler"))
	if err == nil {
		err = unix.Statfs(c.root, &st)
	}
	for left := int64(st.Bavail)*st.Bsize - leave; left > 0 && err == nil; left -= 1 << 20 { //nolint:gosec // sizes of disks
		_, err = f.Write(make([]byte, 1<<20))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		c.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			c.t.Error(err)
		}
	}
}

// tableWith is the first table in a store that has a run of a document in it; empty: none.
func tableWith(t *testing.T, store, run string) string {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(store, "*.sst"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tables {
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(run)) {
			return name
		}
	}
	return ""
}

// flip changes a bit in such a run, on the disk of a node that runs. It fails where the table has just been replaced.
func flip(name, run string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{run[0] ^ 1}, int64(bytes.Index(b, []byte(run))))
	return errors.Join(err, f.Close())
}
