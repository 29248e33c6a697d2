package playground

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
)

const things = "things"

// live is a playground of real nodes, and all that was acknowledged to its clients.
type live struct {
	t     *testing.T
	p     *Playground
	c     *client.Client
	http  *http.Client
	acked map[string]string
	next  int
}

func founded(t *testing.T, change func(*Options)) *live {
	t.Helper()
	o := Default()
	change(&o)
	ctx := bounded(t)
	began := time.Now()
	dir := t.TempDir()
	p, err := Found(ctx, dir, o, testHost(t, "node-run"))
	if p == nil {
		t.Fatal(err)
	}
	l := &live{t: t, p: p, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 12 * time.Second}, acked: map[string]string{}}
	t.Cleanup(func() { killAll(t, p) })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%6.2f s  all in all", time.Since(began).Seconds())
	if l.c, err = p.Client(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.c.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// put writes the next document, by turns over HTTP and over gRPC, and answers its shard; empty: it was not acknowledged.
func (l *live) put(ctx context.Context) themis.ShardID {
	l.next++
	key, value := fmt.Sprint("key-", l.next), fmt.Sprintf(`{"n": %d, "text": "ärger & <ruhe>"}`, l.next)
	var shard themis.ShardID
	var err error
	if l.next%2 == 0 {
		var w client.Written
		w, err = l.c.Put(ctx, things, key, []byte(value))
		shard = w.Shard
	} else {
		shard, err = l.putHTTP(ctx, key, value)
	}
	if err != nil {
		return ""
	}
	l.acked[key] = value
	return shard
}

// putHTTP asks the first node that runs.
func (l *live) putHTTP(ctx context.Context, key, value string) (themis.ShardID, error) {
	body, err := l.ask(ctx, http.MethodPut, key, value)
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(body, `"shard":"`)
	shard, _, found := strings.Cut(rest, `"`)
	if !found {
		l.t.Errorf("answer without a shard: %s", body)
	}
	return themis.ShardID(shard), nil
}

func (l *live) ask(ctx context.Context, method, key, value string) (string, error) {
	info, err := l.p.Info()
	if err != nil {
		return "", err
	}
	for _, n := range info.Nodes {
		if n.Process != Running {
			continue
		}
		req, err := http.NewRequestWithContext(ctx, method, "http://"+n.HTTP+"/api/v1/collections/"+things+"/documents/"+key, strings.NewReader(value))
		if err != nil {
			return "", err
		}
		resp, err := l.http.Do(req)
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("HTTP %d: %s", resp.StatusCode, b)
		}
		return string(b), nil
	}
	return "", fmt.Errorf("no node runs")
}

// putAll writes n documents, all of which must be acknowledged.
func (l *live) putAll(n int) {
	l.t.Helper()
	ctx := bounded(l.t)
	for range n {
		if l.put(ctx) == "" {
			l.t.Fatalf("document %d was not written", l.next)
		}
	}
}

// putUntil writes until a document of that shard is acknowledged.
func (l *live) putUntil(shard themis.ShardID) {
	l.t.Helper()
	began := time.Now()
	ctx := bounded(l.t)
	for l.put(ctx) != shard {
		if ctx.Err() != nil {
			l.t.Fatalf("no write to %s within %s", shard, within)
		}
	}
	l.t.Logf("%6.2f s  until %s was written again", time.Since(began).Seconds(), shard)
}

// compare reads every acknowledged document back, by turns over HTTP and over gRPC.
func (l *live) compare(when string) {
	l.t.Helper()
	ctx := bounded(l.t)
	lost, i := 0, 0
	for key, want := range l.acked {
		i++
		var got string
		var err error
		if i%2 == 0 {
			got, err = l.ask(ctx, http.MethodGet, key, "")
		} else {
			var d client.Doc
			d, err = l.c.Get(ctx, things, key)
			got = string(d.Value)
		}
		if err != nil || got != want {
			l.t.Errorf("%s: %s is %q, %v; acknowledged was %q", when, key, got, err, want)
			if lost++; lost > 5 {
				l.t.FailNow()
			}
		}
	}
	l.t.Logf("          %d documents compared %s", len(l.acked), when)
}

// primary is who leads the shard, as the newest report says.
func (l *live) primary(shard themis.ShardID) themis.NodeID {
	l.t.Helper()
	r, err := l.c.Report(bounded(l.t))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, s := range r.Shards {
		if s.ID == shard {
			return s.Primary
		}
	}
	l.t.Fatalf("no %s in the report", shard)
	return ""
}

func (l *live) awaitHealthy() {
	l.t.Helper()
	if err := l.p.AwaitHealthy(bounded(l.t)); err != nil {
		l.t.Fatal(err)
	}
}

func did(t *testing.T, what string, ok bool, err error) {
	t.Helper()
	if err != nil || !ok {
		t.Fatalf("%s: %v, %v", what, ok, err)
	}
}

// TestKilledPrimary is the story of a newcomer: a cluster, documents, a node that is killed and comes back, everything stopped and
// started again; no acknowledged document is ever missing.
func TestKilledPrimary(t *testing.T) {
	t.Parallel()
	l := founded(t, func(*Options) {})
	ctx := t.Context()
	l.putAll(60)
	loaded, err := l.p.Load(bounded(t), Source{Collection: "heap"}, bytes.NewReader([]byte(`{"_key":"a","v":1}`+"\n"+`{"_key":"b","v":2}`+"\n"+`{"v":3}`+"\n")))
	if err != nil || loaded.Written != 2 || loaded.Failed != 1 || loaded.Errors[0].Line != 3 {
		t.Fatalf("load: %+v, %v", loaded, err)
	}
	victim := l.primary("shard-1")
	ok, err := l.p.Kill(ctx, victim)
	did(t, "kill", ok, err)
	l.putUntil("shard-1")
	l.compare("with " + string(victim) + " killed")
	ok, err = l.p.StartNode(ctx, victim)
	did(t, "start", ok, err)
	l.awaitHealthy()
	l.putAll(20)

	n, err := l.p.Stop(bounded(t))
	if n != 3 || err != nil {
		t.Fatalf("stop: %d, %v", n, err)
	}
	if left := processesOf(t, l.p.Dir); len(left) > 0 {
		t.Fatalf("left after stop: %v", left)
	}
	again, err := Open(l.p.Dir, l.p.host) // as another command would
	if err != nil {
		t.Fatal(err)
	}
	woken, err := again.Start(bounded(t))
	if err != nil || len(woken) != 3 {
		t.Fatalf("start: %v, %v", woken, err)
	}
	if woken, err = again.Start(bounded(t)); err != nil || len(woken) != 0 {
		t.Fatalf("start what runs: %v, %v", woken, err)
	}
	l.compare("after stop and start")
	if d, err := l.c.Get(bounded(t), "heap", "b"); err != nil || string(d.Value) != `{"_key":"b","v":2}` {
		t.Errorf("loaded: %q, %v", d.Value, err)
	}
}

// TestPausedPrimary freezes a primary for longer than its lease while writes go on. When it wakes it must not take anything for
// acknowledged, nor answer with what it knew.
func TestPausedPrimary(t *testing.T) {
	t.Parallel()
	l := founded(t, func(o *Options) {
		o.Replication, o.SyncShards = themis.Hybrid, []themis.ShardID{"shard-1", "shard-2", "shard-3"}
	})
	ctx := t.Context()
	modes := map[themis.ShardID]themis.Mode{}
	r, err := l.c.Report(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Shards {
		modes[s.ID] = s.Mode
	}
	if modes["shard-1"] != themis.Sync || modes["shard-4"] != themis.Async {
		t.Errorf("modes under hybrid: %v", modes)
	}
	victim := l.primary("shard-1")
	told, stop := follow(t, l.p)
	paused := time.Now()
	ok, err := l.p.Pause(ctx, victim)
	did(t, "pause", ok, err)
	l.putUntil("shard-1")
	for time.Since(paused) < 6*time.Second { // the lease is 5 s
		l.put(bounded(t))
	}
	if now := l.primary("shard-1"); now == victim {
		t.Errorf("%s still leads shard-1", victim)
	}
	await(t, told, Change{Node: victim, Process: Paused})
	ok, err = l.p.Resume(ctx, victim)
	did(t, "resume", ok, err)
	await(t, told, Change{Node: victim, Process: Running})
	l.awaitHealthy()
	l.compare("after the pause")
	stop()
}

// TestAddedNode: the cluster takes in a node that was not there when it was founded, and it is there after a restart.
func TestAddedNode(t *testing.T) {
	t.Parallel()
	l := founded(t, func(o *Options) { o.Nodes, o.RF, o.Redundancy = 1, 1, "NONE" })
	l.putAll(10)
	_, err := l.p.Add(bounded(t), "Node 2")
	refused(t, err, themis.InvalidArgument, "DNS label")
	ok, err := l.p.Add(bounded(t), "node-2")
	did(t, "add", ok, err)
	if ok, err = l.p.Add(bounded(t), "node-2"); ok || err != nil {
		t.Errorf("add what is a member already: %v, %v", ok, err)
	}
	eventually(t, "node-2 in the report", func() bool {
		r, err := l.c.Report(bounded(t))
		return err == nil && len(r.Nodes) == 2 && r.Nodes[1].ID == "node-2" && r.Nodes[1].State == "UP"
	})
	killAll(t, l.p)
	_, err = l.p.Add(bounded(t), "node-3")
	refused(t, err, themis.Unreachable)
	info := must[Info](t)(l.p.Info())
	if len(info.Nodes) != 2 || info.Running != 0 {
		t.Errorf("with no cluster to join something was made or started: %+v", info)
	}
	if woken, err := l.p.Start(bounded(t)); err != nil || len(woken) != 2 {
		t.Fatalf("start: %v, %v", woken, err)
	}
	l.compare("after a restart with the added node")
}

// follow tells what happens until stop is called.
func follow(t *testing.T, p *Playground) (told <-chan Change, stop func()) {
	t.Helper()
	other, err := Open(p.Dir, p.host) // as another command would
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan Change, 1000), make(chan error, 1)
	go func() {
		ended <- other.Follow(ctx, func(c Change) {
			select {
			case changes <- c:
			default: // nobody needs so many
			}
		})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("follow: %v", err)
		}
	})
	t.Cleanup(stop)
	return changes, stop
}

// await waits until that is told.
func await(t *testing.T, told <-chan Change, want Change) {
	t.Helper()
	ctx := bounded(t)
	for {
		select {
		case <-ctx.Done():
			t.Fatalf("%s of %s was not told", want.Process, want.Node)
		case c := <-told:
			if c == want {
				return
			}
		}
	}
}
