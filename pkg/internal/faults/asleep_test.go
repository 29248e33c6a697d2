package faults

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// What a primary is asked while it sleeps it answers when it wakes: nothing of what it knew, and no write under its old reign.
func TestAskedWhileItSlept(t *testing.T) {
	h := newHosts(t, setup{rf: 3, args: []string{"--control-lease-ttl-ms", "30000"}})
	w := h.work(6)
	w.more(t, 200, rto)
	r, err := h.report()
	must(t, err)
	victim, _ := leads(r, "shard-1")
	h.pause(victim)
	h.until("the others lead every shard", rto, leadsNone(victim))
	w.more(t, 300, rto+10*time.Second)
	var asked sync.WaitGroup
	for i := range 4 * workKeys {
		asked.Go(func() {
			op := operation{key: w.prefix + fmt.Sprint(i%workKeys)}
			if i%4 == 3 {
				op.write = true
				w.put(asking+i, victim, op, time.Since(w.began))
				return
			}
			w.get(asking+i, victim, &op, time.Since(w.began))
		})
	}
	<-time.After(time.Second)
	h.resume(victim)
	asked.Wait()
	ok, unknown, refused := w.since(victim, nil, time.Time{})
	t.Log(ok, unknown, refused)
	h.until("all is whole again", heal, healthy)
	w.more(t, 100, rto)
	w.end(t, 400)
}

// A follower that was cut off and lacks what was written since is reachable again when all others are killed: it is not elected, and
// answers nothing.
func TestCutOffFollowerIsNotElected(t *testing.T) {
	const witness = "witness"
	h, w, primary, others := atWork(t, setup{
		names: []string{"node-1", "node-2", "node-3", witness}, roles: map[string]string{witness: "controller"}, control: 1, shards: 1, rf: 3, net: true,
	}, 100)
	victim, other := others[0], others[1]
	h.leaveAlone(victim)
	h.net.Cut([]string{victim}, []string{primary, other})
	h.until("it is out of the in-sync set", rto, func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		return len(s.ISR) == 2 && !slices.Contains(s.ISR, themis.NodeID(victim))
	})
	w.more(t, 50, rto)
	h.kill(primary, other)
	h.net.Heal()
	for began := time.Now(); time.Since(began) < 6*time.Second; <-time.After(50 * time.Millisecond) {
		if status, body := h.request(http.MethodGet, victim, "k1?timeout_ms=500", ""); status == http.StatusOK || status == http.StatusNotFound {
			t.Fatalf("a follower that lacks what was acknowledged was elected, and answers: %d %s", status, body)
		}
	}
	h.start(primary)
	h.start(other)
	h.until("all is whole again", heal, healthy)
	w.more(t, 50, rto)
	w.end(t, 200)
}
