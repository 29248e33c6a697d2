package rpc

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/themisdb/themis/pkg/themis"
)

func stamped(at time.Time, n int) metadata.MD {
	return metadata.Pairs(TimestampKey, strconv.FormatInt(at.UnixNano(), 10), NonceKey, fmt.Sprintf("%032x", n))
}

func TestStampPassesTheGuard(t *testing.T) {
	md, _ := metadata.FromOutgoingContext(stamp(t.Context()))
	other, _ := metadata.FromOutgoingContext(stamp(t.Context()))
	if md.Get(NonceKey)[0] == other.Get(NonceKey)[0] {
		t.Error("two calls, one nonce")
	}
	g := newReplayGuard(DefaultReplayWindow, time.Now())
	if err := errors.Join(g.check(md, time.Now()), g.check(other, time.Now())); err != nil {
		t.Error(err)
	}
}

// A stamp that could pass by its time is remembered, however the generations turn.
func TestReplayGuardForgetsNothingTooEarly(t *testing.T) {
	const window = 30 * time.Second
	begin := time.Unix(1_700_000_000, 0)
	for _, first := range []time.Duration{0, 1, window - 1, window, 2*window - 1, 2 * window, 3 * window, 5 * window} {
		for _, ahead := range []time.Duration{-window, 0, window} { // the sender's clock
			g := newReplayGuard(window, begin)
			now := begin.Add(first)
			md := stamped(now.Add(ahead), 1)
			if err := g.check(md, now); err != nil {
				t.Fatalf("first use after %s, %s ahead: %v", first, ahead, err)
			}
			for i, step := 0, 7*time.Second; i < 30; i++ {
				now = now.Add(step)
				if err := g.check(md, now); themis.CodeOf(err) != themis.Unauthenticated {
					t.Errorf("first use after %s, %s ahead, repeated %s later: %v", first, ahead, time.Duration(i+1)*step, err)
				}
				if err := g.check(stamped(now, 100+i), now); err != nil {
					t.Errorf("a fresh one: %v", err)
				}
			}
		}
	}
}

func TestReplayGuardIsBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	g := newReplayGuard(time.Second, now)
	g.limit = 3
	for i := range 3 {
		if err := g.check(stamped(now, i), now); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.check(stamped(now, 3), now); themis.CodeOf(err) != themis.Overloaded {
		t.Errorf("a fourth within one generation: %v", err)
	}
	now = now.Add(2 * time.Second)
	if err := g.check(stamped(now, 4), now); err != nil {
		t.Errorf("in the next generation: %v", err)
	}
	now = now.Add(time.Hour)
	if err := g.check(stamped(now, 5), now); err != nil || g.previous != nil {
		t.Errorf("after a long silence: %v, %d old ones kept", err, len(g.previous))
	}
}

func FuzzStamp(f *testing.F) {
	f.Add("1700000000000000000", "00000000000000000000000000000001")
	f.Add("-1", "zz")
	f.Add("9223372036854775807", "")
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, at, nonce string) {
		g := newReplayGuard(DefaultReplayWindow, now)
		md := metadata.Pairs(TimestampKey, at, NonceKey, nonce)
		if first, second := g.check(md, now), g.check(md, now); first == nil && second == nil {
			t.Fatal("passed twice")
		}
	})
}
