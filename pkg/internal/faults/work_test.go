package faults

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/themisdb/themis/pkg/themis"
)

// work writes and reads a few documents over HTTP from several clients at once, and keeps the history: what was asked, when,
// and what was answered. A write whose outcome is unknown stays open until the end.
type work struct {
	h       *hosts
	stop    chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	history []porcupine.Operation
	next    atomic.Int64
	writes  atomic.Int64 // acknowledged
	began   time.Time
	pause   time.Duration // the longest time without an acknowledged write
	lastAck time.Time

	prefix  string
	near    bool                      // each client asks one node alone
	answers []answer                  // and refusals
	shards  map[string]themis.ShardID // by key, as answers have told
}

// answer is that a node answered, and when it had been asked.
type answer struct {
	node, key string
	call      time.Duration
	ok        bool // done, or read
	unknown   bool // it may have been done
}

type operation struct {
	key   string
	write bool
	value int  // written, or read; 0: absent
	swap  bool // written only over the version that had the value from
	from  int
}

const (
	workKeys = 12
	repeats  = 6       // of a write whose outcome is unknown
	asking   = 900     // the test itself
	closing  = 1000    // clients from here on read what is there at the end
	open     = 1 << 60 // the end of an operation whose outcome nobody knows
)

func (h *hosts) work(clients int) *work { return h.workBy(clients, false, "k") }

// workNear is work by clients of which each asks one node alone: what that node answers, it answers of itself where it is cut off.
// Documents' names begin with prefix.
func (h *hosts) workNear(clients int, prefix string) *work { return h.workBy(clients, true, prefix) }

func (h *hosts) workBy(clients int, near bool, prefix string) *work {
	w := &work{h: h, near: near, prefix: prefix, stop: make(chan struct{}), shards: map[string]themis.ShardID{}, began: time.Now(), lastAck: time.Now()}
	for c := range clients {
		w.wg.Go(func() { w.client(c) })
	}
	return w
}

func (w *work) client(id int) {
	rng := rand.New(rand.NewPCG(uint64(id), 7))
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		node, ok := w.choose(id, rng)
		if !ok {
			<-time.After(10 * time.Millisecond)
			continue
		}
		op := operation{key: w.prefix + fmt.Sprint(rng.IntN(workKeys)), write: rng.IntN(3) > 0}
		call := time.Since(w.began)
		switch {
		case op.write:
			w.put(id, node, op, call)
		default:
			if version, ok := w.get(id, node, &op, call); ok && op.value != 0 && rng.IntN(2) == 0 {
				w.swap(id, node, operation{key: op.key, write: true, swap: true, from: op.value}, version)
			}
		}
		if w.near { // its packets all pass through this process
			<-time.After(3 * time.Millisecond)
		}
	}
}

// choose is the node that a client asks next, if there is one.
func (w *work) choose(id int, rng *rand.Rand) (string, bool) {
	nodes := w.h.running()
	if w.near {
		mine := w.h.names[id%len(w.h.names)]
		return mine, slices.Contains(nodes, mine)
	}
	if len(nodes) == 0 {
		return "", false
	}
	return nodes[rng.IntN(len(nodes))], true
}

// limit is a request's time.
func (w *work) limit() string {
	if w.near {
		return "?timeout_ms=1000"
	}
	return "?timeout_ms=8000"
}

// said keeps what a node answered. shard is the document's, where the answer told.
func (w *work) said(a answer, shard themis.ShardID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers = append(w.answers, a)
	if shard != "" {
		w.shards[a.key] = shard
	}
}

// keys are the documents of some shards, as answers have told.
func (w *work) keys(of []themis.ShardID) (keys []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(w.shards)) {
		if slices.Contains(of, w.shards[key]) {
			keys = append(keys, key)
		}
	}
	return keys
}

// since are a node's answers about documents of some shards to what it was asked after that moment.
func (w *work) since(node string, of []themis.ShardID, moment time.Time) (ok, unknown, refused int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.answers {
		switch {
		case a.node != node || w.began.Add(a.call).Before(moment) || !slices.Contains(of, w.shards[a.key]):
		case a.ok:
			ok++
		case a.unknown:
			unknown++
		default:
			refused++
		}
	}
	return ok, unknown, refused
}

func (w *work) put(id int, node string, op operation, call time.Duration) {
	op.value = int(w.next.Add(1))
	status, body := w.write(id, node, op)
	switch {
	case status == http.StatusOK:
		var d struct{ Shard themis.ShardID }
		_ = json.Unmarshal([]byte(body), &d) // only what the test counts by rests on it
		w.said(answer{node: node, key: op.key, call: call, ok: true}, d.Shard)
		w.writes.Add(1)
		w.add(id, op, call, time.Since(w.began))
		w.mu.Lock()
		w.pause = max(w.pause, time.Since(w.lastAck))
		w.lastAck = time.Now()
		w.mu.Unlock()
	case status == 0 || strings.Contains(body, "OUTCOME_UNKNOWN"):
		w.add(id, op, call, -1)
		w.said(answer{node: node, key: op.key, call: call, unknown: true}, "")
	default:
		w.said(answer{node: node, key: op.key, call: call}, "")
	}
	if status != http.StatusOK {
		<-time.After(5 * time.Millisecond)
	}
}

// swap writes over the version that was just read, and over no other. A refusal tells nothing that the model could hold against
// writes of unknown outcome, and is left out.
func (w *work) swap(id int, node string, op operation, version string) {
	op.value = int(w.next.Add(1))
	call := time.Since(w.began)
	status, body := w.h.request(http.MethodPut, node, op.key+w.limit(), fmt.Sprintf(`{"v":%d}`, op.value), "If-Match", version)
	switch {
	case status == http.StatusOK:
		w.add(id, op, call, time.Since(w.began))
	case status == 0 || strings.Contains(body, "OUTCOME_UNKNOWN"):
		w.add(id, op, call, -1)
	}
}

// write asks once, or, where the client is one that repeats itself, again under the same request id for as long as the outcome
// is unknown, any node: however often it asked, the write takes effect once.
func (w *work) write(id int, node string, op operation) (status int, body string) {
	document := fmt.Sprintf(`{"v":%d}`, op.value)
	if w.near || id%2 == 0 {
		return w.h.request(http.MethodPut, node, op.key+w.limit(), document)
	}
	unknown := false // one attempt may have done it, so a later refusal says nothing of the whole
	for attempt := range repeats {
		if status, body = w.h.request(http.MethodPut, node, op.key+w.limit(), document, "Idempotency-Key", fmt.Sprintf("write-%s-%d", w.prefix, op.value)); status == http.StatusOK {
			return status, body
		}
		unknown = unknown || status == 0 || strings.Contains(body, "OUTCOME_UNKNOWN")
		if !unknown {
			return status, body
		}
		if nodes := w.h.running(); len(nodes) > 0 {
			node = nodes[(id+attempt)%len(nodes)]
		}
		<-time.After(5 * time.Millisecond)
	}
	return 0, ""
}

// get reads into op.value, and tells the document's version and whether there was an answer.
func (w *work) get(id int, node string, op *operation, call time.Duration) (version string, ok bool) {
	status, body, version := w.h.exchange(http.MethodGet, node, op.key+w.limit(), "")
	switch status {
	case http.StatusOK:
		var d struct{ V int }
		if err := json.Unmarshal([]byte(body), &d); err != nil {
			w.h.t.Errorf("read of %s: %q", op.key, body)
			return "", false
		}
		op.value = d.V
	case http.StatusNotFound:
	default:
		if status != 0 {
			w.said(answer{node: node, key: op.key, call: call}, "")
		}
		<-time.After(5 * time.Millisecond)
		return "", false
	}
	w.said(answer{node: node, key: op.key, call: call, ok: true}, "")
	w.add(id, *op, call, time.Since(w.began))
	return version, true
}

// add keeps one operation; end -1 says that it may take effect at any later time.
func (w *work) add(id int, op operation, call, end time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if end < 0 {
		end = open
	}
	w.history = append(w.history, porcupine.Operation{ClientId: id, Input: op, Call: int64(call), Output: op.value, Return: int64(end)})
}

// registers is the model: every document is a register.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, o := range history {
			k := o.Input.(operation).key
			by[k] = append(by[k], o)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		op := input.(operation)
		switch {
		case op.swap:
			return state == op.from, op.value
		case op.write:
			return true, op.value
		}
		return state == output, state
	},
}

// end stops the clients and judges what they saw.
func (w *work) end(t *testing.T, atLeast int64) {
	t.Helper()
	w.halt()
	if n := w.writes.Load(); n < atLeast {
		t.Errorf("only %d writes were acknowledged, want at least %d", n, atLeast)
	}
	if result := w.judge(t); result != porcupine.Ok {
		t.Errorf("the history of %d operations is not linearizable: %s\n%s", len(w.history), result, strings.Join(w.lost(), "\n"))
	}
}

// halt stops the clients.
func (w *work) halt() {
	close(w.stop)
	w.wg.Wait()
}

// judge reads every document once more and checks the history.
func (w *work) judge(t *testing.T) porcupine.CheckResult {
	t.Helper()
	for i := range workKeys { // what is there at the end belongs to the history
		op := operation{key: w.prefix + fmt.Sprint(i)}
		w.get(closing+i, w.h.running()[0], &op, time.Since(w.began))
	}
	result := porcupine.CheckOperationsTimeout(registers, settled(w.history), 60*time.Second)
	t.Logf("%d operations, %d acknowledged writes, longest pause %s: %s", len(w.history), w.writes.Load(), w.pause.Round(time.Millisecond), result)
	return result
}

// more waits until so many further writes were acknowledged.
func (w *work) more(t *testing.T, n int64, limit time.Duration) {
	t.Helper()
	goal := w.writes.Load() + n
	for deadline := time.Now().Add(limit); w.writes.Load() < goal; {
		if time.Now().After(deadline) {
			t.Fatalf("within %s only %d of %d writes were acknowledged", limit, w.writes.Load()-goal+n, n)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// acknowledged are the values that were written and confirmed, with the key and the moment of each.
func (w *work) acknowledged() map[int]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[int]string{}
	for _, o := range w.history {
		if op := o.Input.(operation); op.write && o.Return < open {
			out[op.value] = fmt.Sprintf("write of %d to %s, acknowledged %s after the start", op.value, op.key, time.Duration(o.Return).Round(time.Millisecond))
		}
	}
	return out
}

// settled is the same history, easier to judge: values are unique, so a write of unknown outcome took effect before the first
// answer that showed its value ended; one that nobody ever saw may as well come after everything, and is left out.
func settled(history []porcupine.Operation) (out []porcupine.Operation) {
	seen := map[int]int64{} // by value, when the first read that showed it ended
	for _, o := range history {
		if op := o.Input.(operation); !op.write {
			if first, ok := seen[o.Output.(int)]; !ok || o.Return < first {
				seen[o.Output.(int)] = o.Return
			}
		}
	}
	for _, o := range history {
		if op := o.Input.(operation); op.write && o.Return == open {
			first, ok := seen[op.value]
			if !ok {
				continue
			}
			o.Return = max(first, o.Call)
		}
		out = append(out, o)
	}
	return out
}

// lost names acknowledged writes that the closing reads show to be gone: what they read was written before, surely.
func (w *work) lost() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ended := map[int]int64{0: -1} // by value, when its write was over
	last := map[string]int{}
	for _, o := range w.history {
		switch op := o.Input.(operation); {
		case op.write:
			ended[op.value] = o.Return
		case o.ClientId >= closing:
			last[op.key] = o.Output.(int)
		}
	}
	for _, o := range w.history {
		op := o.Input.(operation)
		if now, read := last[op.key]; op.write && read && o.Return < open && o.Call > ended[now] {
			out = append(out, fmt.Sprintf("the write of %d to %s, acknowledged after %s, is gone: the document is %d", op.value, op.key, time.Duration(o.Return).Round(time.Millisecond), now))
		}
	}
	return out
}
