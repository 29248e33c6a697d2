package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestStandstill: a stream without a deadline lasts as long as it goes on, however slowly it is read; one that stands still ends.
func TestStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, s, cancel := withStandstill(t.Context())
		defer cancel()
		for range 10 {
			time.Sleep(defaultTimeout - time.Second)                                                    // virtual; the next part is looked for
			if err := s.pass(func() error { time.Sleep(3 * defaultTimeout); return nil }); err != nil { // virtual
				t.Fatal(err)
			}
		}
		if ctx.Err() != nil {
			t.Fatal("a stream that goes on was cut")
		}
		time.Sleep(defaultTimeout + time.Second) // virtual
		if ctx.Err() == nil {
			t.Fatal("a stream that stands still goes on")
		}
	})
}

// TestStandstillLeavesDeadlines: the time of a request that brings one is its own.
func TestStandstillLeavesDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		ctx, s, cancel := withStandstill(limited)
		defer cancel()
		time.Sleep(59 * time.Second) // virtual
		if err := s.pass(func() error { return nil }); err != nil || ctx.Err() != nil {
			t.Fatalf("%v, %v", err, ctx.Err())
		}
		time.Sleep(2 * time.Second) // virtual
		if ctx.Err() == nil {
			t.Fatal("the deadline was not kept")
		}
	})
}
