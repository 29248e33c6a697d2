package control

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// beat starts a heartbeat and its Run; what Run returns comes on the channel.
func beat(t *testing.T, kv KV, boot string) (*Lease, context.CancelFunc, <-chan error) {
	t.Helper()
	m, err := NewMap(kv, "c1", Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.Heartbeat(t.Context(), cluster.Alive{Node: "node-1", Storage: "disk-1", Boot: themis.BootID(boot)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	return l, cancel, ended
}

func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		m, _, _ := start(t, mem, 1)
		l, stop, ended := beat(t, mem, "boot-1")
		time.Sleep(time.Minute) // virtual
		if !l.Holds(time.Now()) || l.Err() != nil {
			t.Errorf("it doesn't hold: %v", l.Err())
		}
		if v := view(t, m); v.Alive["node-1"].Boot != "boot-1" {
			t.Errorf("announced: %+v", v.Alive)
		}
		used := 0.5
		if err := l.PutAlive(t.Context(), cluster.Alive{Storage: "disk-1", Version: "2", DiskUsed: &used}); err != nil {
			t.Fatal(err)
		}
		if a := view(t, m).Alive["node-1"]; a.Version != "2" || a.Boot != "boot-1" || a.Node != "node-1" {
			t.Errorf("announced: %+v", a)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if l.Holds(time.Now()) || len(view(t, m).Alive) != 0 {
			t.Error("not given back")
		}
	})
}

// TestLeaseCountsFromSending: an answer that took 2 s leaves 2 s less.
func TestLeaseCountsFromSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		start(t, mem, 1)
		var cut, slow atomic.Bool
		kv := &Faulty{KV: mem,
			Before: func(ctx context.Context, c Call) error {
				if c == CallLease && cut.Load() {
					return errFault
				}
				return nil
			},
			After: func(ctx context.Context, c Call) error {
				if c == CallLease && slow.Load() {
					time.Sleep(2 * time.Second) // virtual
				}
				return nil
			}}
		slow.Store(true)
		began := time.Now()
		l, stop, ended := beat(t, kv, "boot-1")
		cut.Store(true)
		slow.Store(false)
		until := began.Add(4500 * time.Millisecond)
		if !l.Holds(until.Add(-1)) || l.Holds(until) {
			t.Errorf("it holds until something else than %s after the request", until.Sub(began))
		}
		lost := l.Lost()
		time.Sleep(time.Until(until) - 1) // virtual
		synctest.Wait()
		select {
		case <-lost:
			t.Error("lost too early")
		default:
		}
		time.Sleep(time.Nanosecond) // virtual
		synctest.Wait()
		select {
		case <-lost:
		default:
			t.Error("not lost in time")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestLeaseNeverOutlivesTheStore: cut off at any moment, it stops to hold before the store's lease ends.
func TestLeaseNeverOutlivesTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		m, _, _ := start(t, mem, 1)
		var cut atomic.Bool
		kv := &Faulty{KV: mem, Before: func(context.Context, Call) error {
			if cut.Load() {
				return errFault
			}
			return nil
		}}
		l, stop, ended := beat(t, kv, "boot-1")
		for i := range 20 {
			time.Sleep(time.Duration(i) * 137 * time.Millisecond) // virtual
			ctx, done := l.Context(t.Context())
			cut.Store(true)
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), ErrLeaseLost) || l.Holds(time.Now()) {
				t.Errorf("ended with %v", context.Cause(ctx))
			}
			done()
			if _, ok := view(t, m).Alive["node-1"]; !ok {
				t.Error("the store ended the lease while it held here")
			}
			if i%2 == 0 {
				time.Sleep(2 * time.Second) // virtual; the store's lease ends too
			}
			cut.Store(false)
			time.Sleep(3 * time.Second) // virtual
			if !l.Holds(time.Now()) {
				t.Error("not taken anew")
			}
			if _, ok := view(t, m).Alive["node-1"]; !ok {
				t.Error("not announced anew")
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestLeaseReplaced: of two processes under one name the later one stays.
func TestLeaseReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		m, _, _ := start(t, mem, 1)
		old, _, oldEnded := beat(t, mem, "boot-1")
		young, stop, youngEnded := beat(t, mem, "boot-2")
		if err := old.PutAlive(t.Context(), cluster.Alive{}); !errors.Is(err, ErrReplaced) {
			t.Errorf("the older announces itself: %v", err)
		}
		if err := mem.Revoke(t.Context(), old.id); err != nil {
			t.Fatal(err)
		}
		if err := <-oldEnded; !errors.Is(err, ErrReplaced) || old.Holds(time.Now()) {
			t.Errorf("the older ended with %v", err)
		}
		if v := view(t, m); v.Alive["node-1"].Boot != "boot-2" || !young.Holds(time.Now()) {
			t.Errorf("announced: %+v", v.Alive)
		}
		stop()
		if err := <-youngEnded; err != nil {
			t.Error(err)
		}
	})
}
