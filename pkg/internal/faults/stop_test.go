package faults

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
)

// term asks a node to end, and waits for it. Clients leave it alone from now on; what they had asked goes on.
func (h *hosts) term(name string, s syscall.Signal) {
	h.t.Helper()
	h.mu.Lock()
	h.paused[name] = true
	h.mu.Unlock()
	p := h.signal(name, s)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		h.t.Fatalf("%s does not end", name)
	}
	h.mu.Lock()
	delete(h.proc, name)
	h.mu.Unlock()
}

// restart starts a node again; clients come back once it answers.
func (h *hosts) restart(name string) {
	h.t.Helper()
	h.start(name)
	h.mu.Lock()
	delete(h.paused, name)
	h.mu.Unlock()
}

// tide is a row of clients that write documents of their own, without request ids, so that nothing can be repeated in secret.
type tide struct {
	h    *hosts
	stop chan struct{}
	wg   sync.WaitGroup

	acked   atomic.Int64
	mu      sync.Mutex
	last    map[string]int // by key: the newest value that was acknowledged
	pause   time.Duration  // the longest time in which one client got no answer
	unknown []string       // writes without a known outcome
}

func (h *hosts) tide(clients int) *tide {
	w := &tide{h: h, stop: make(chan struct{}), last: map[string]int{}}
	for c := range clients {
		w.wg.Go(func() { w.client(c) })
	}
	return w
}

func (w *tide) client(id int) {
	for i := 1; ; i++ {
		select {
		case <-w.stop:
			return
		default:
		}
		nodes := w.h.running()
		node, key := nodes[i%len(nodes)], fmt.Sprintf("c%d-%d", id, i%8)
		began := time.Now()
		status, body := w.h.request(http.MethodPut, node, key+"?timeout_ms=8000", fmt.Sprintf(`{"v":%d}`, i))
		w.mu.Lock()
		switch {
		case status == http.StatusOK:
			w.acked.Add(1)
			w.last[key] = i
		case status == 0 || strings.Contains(body, "OUTCOME_UNKNOWN"):
			w.unknown = append(w.unknown, fmt.Sprintf("%s via %s after %s: %d %s", key, node, time.Since(began).Round(time.Millisecond), status, body))
		}
		w.pause = max(w.pause, time.Since(began))
		w.mu.Unlock()
	}
}

func (w *tide) more(t *testing.T, n int64) {
	t.Helper()
	goal := w.acked.Load() + n
	for deadline := time.Now().Add(rto); w.acked.Load() < goal; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("within %s fewer than %d writes were acknowledged", rto, n)
		}
	}
}

// end stops the clients and reads back what was acknowledged.
func (w *tide) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.wg.Wait()
	for _, o := range w.unknown {
		t.Errorf("an unknown outcome: %s", o)
	}
	for key, v := range w.last {
		status, body := w.h.request(http.MethodGet, w.h.names[0], key, "")
		if want := fmt.Sprintf(`{"v":%d}`, v); status != http.StatusOK || body != want {
			t.Errorf("%s: %d %s, acknowledged was %s", key, status, body, want)
		}
	}
	t.Logf("%d writes, the longest took %s", w.acked.Load(), w.pause.Round(time.Millisecond))
}

// Row 5: every node is stopped by SIGTERM and started again, one by one, under writes.
func TestRollingRestart(t *testing.T) {
	h := newHosts(t, setup{rf: 3})
	w := h.tide(8)
	w.more(t, 300)
	epochs := map[string]uint64{}
	for _, n := range h.names {
		r := h.until("all is whole before "+n+" stops", heal, healthy)
		led := 0
		for _, s := range r.Shards {
			epochs[string(s.ID)] = uint64(s.Epoch)
			if string(s.Primary) == n {
				led++
			}
		}
		began := time.Now()
		h.term(n, syscall.SIGTERM)
		took := time.Since(began)
		w.more(t, 200)
		r = h.until("every shard is led by a node that runs", rto, func(r health.Report) bool {
			for _, s := range r.Shards {
				if string(s.Primary) == n || s.Writable == nil || !*s.Writable {
					return false
				}
			}
			return true
		})
		for _, s := range r.Shards {
			if was := epochs[string(s.ID)]; uint64(s.Epoch) > was+1 {
				t.Errorf("%s went from epoch %d to %d for one stop", s.ID, was, s.Epoch)
			}
		}
		t.Logf("%s led %d shards and ended after %s", n, led, took.Round(time.Millisecond))
		h.restart(n)
	}
	h.until("all is whole again", heal, healthy)
	w.more(t, 100)
	w.end(t)
	if w.pause > 5*time.Second { // about 0.1 s; an election of one that was killed takes longer than 1 s
		t.Errorf("a write took %s", w.pause)
	}
}
