package faults

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// sleeper is a primary that is about to be paused, with connections that stand already: what is sent over them while it sleeps waits in
// its kernel's buffers, and it finds that when it wakes, beside the news that others lead.
type sleeper struct {
	w     *work
	node  string
	lanes []nodev1.DocumentServiceClient
	keys  []string // documents of shards that it leads

	answers sync.WaitGroup
	mu      sync.Mutex
	done    []string // what it answered or acknowledged
	refused map[themis.Code]int
}

func (w *work) sleeper(t *testing.T, node string) *sleeper {
	t.Helper()
	r, err := w.h.report()
	must(t, err)
	s := &sleeper{w: w, node: node, keys: w.keys(ledBy(r, node)), refused: map[themis.Code]int{}}
	if len(s.keys) == 0 {
		t.Fatalf("%s leads no shard that has documents", node)
	}
	for i := range 8 {
		lane, err := w.h.pool.Documents(t.Context(), w.h.addr[node]["grpc"], themis.NodeID(node), rpc.Lane(fmt.Sprint("asleep", i)))
		must(t, err)
		s.lanes = append(s.lanes, lane)
		if err := s.read(lane, s.keys[0]); err != nil {
			t.Fatalf("%s, awake: %v", node, err)
		}
	}
	return s
}

// read asks for a document that the node is to answer for by itself, or not at all.
func (s *sleeper) read(lane nodev1.DocumentServiceClient, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := lane.Read(ctx, &nodev1.ReadRequest{Collection: "things", Key: key, Forwarded: true})
	return err
}

// write is read, of a change. Where its outcome is unknown the history keeps it open.
func (s *sleeper) write(lane nodev1.DocumentServiceClient, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	op := operation{key: key, write: true, value: int(s.w.next.Add(1))}
	call := time.Since(s.w.began)
	_, err := lane.Write(ctx, &nodev1.WriteRequest{
		Collection: "things", Operations: []*nodev1.Operation{{Key: key, Value: fmt.Appendf(nil, `{"v":%d}`, op.value)}}, Forwarded: true,
	})
	if err == nil {
		s.w.add(asking, op, call, time.Since(s.w.began))
	} else if themis.CodeOf(err) == themis.OutcomeUnknown {
		s.w.add(asking, op, call, -1)
	}
	return err
}

// ask sends reads and writes to the node, which is paused. What it was asked a moment before that it may answer as it pleases.
func (s *sleeper) ask() {
	<-time.After(100 * time.Millisecond) // until it surely sleeps
	for i, lane := range s.lanes {
		for n := range 24 {
			key := s.keys[(i+n)%len(s.keys)]
			s.answers.Go(func() {
				what, ask := "read of "+key, s.read
				if n%4 == 3 {
					what, ask = "write to "+key, s.write
				}
				err := ask(lane, key)
				s.mu.Lock()
				defer s.mu.Unlock()
				if err == nil || themis.CodeOf(err) == themis.NotFound {
					s.done = append(s.done, what)
				} else {
					s.refused[themis.CodeOf(err)]++
				}
			})
		}
	}
	<-time.After(time.Second) // until all is in its kernel's buffers
}

// answersNothing demands that the node, which is awake again and no longer leads, refused all that it was asked while it slept.
func (s *sleeper) answersNothing(t *testing.T) {
	t.Helper()
	s.answers.Wait()
	if len(s.done) > 0 {
		t.Errorf("%s, woken in a later reign, answered %d requests under its own: %v", s.node, len(s.done), s.done)
	}
	if s.refused[themis.NoPrimary] == 0 {
		t.Errorf("%s refused nothing, so nothing was shown", s.node)
	}
	t.Logf("%s refused %v", s.node, s.refused)
}

// What a primary is asked while it sleeps it refuses when it wakes, also where the news that another leads comes later: it answers
// nothing of what it knew, and acknowledges no write under its old reign. Its lease in the control plane still holds then.
func TestAskedWhileItSlept(t *testing.T) {
	h, w, victim, others := atWork(t, setup{shards: 1, rf: 3, net: true, args: []string{"--control-lease-ttl-ms", "60000"}}, 200)
	s := w.sleeper(t, victim)
	h.net.Cut([]string{victim}, others)
	h.pause(victim)
	h.until("another leads", rto, leadsNone(victim))
	w.more(t, 100, rto)
	s.ask()
	h.resume(victim)
	<-time.After(2 * time.Second) // more than it needs for answers to all
	h.net.Heal()
	s.answersNothing(t)
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
