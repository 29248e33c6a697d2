package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/themisdb/themis/pkg/themis"
)

// The metadata of the stamp that every changing call carries (SEC-04, C-07).
const (
	TimestampKey = "x-themis-timestamp-ns" // the caller's wall clock, decimal
	NonceKey     = "x-themis-nonce"        // 16 random bytes as hex, fresh for every call
)

// DefaultReplayWindow is how far a stamp may be from the server's clock, before or behind.
const DefaultReplayWindow = 30 * time.Second

// maxNonces bounds each of the two generations of a guard's memory: 8.7k calls a second for 30 s, about 16 MiB.
const maxNonces = 1 << 18

type nonce [16]byte

// stamp adds timestamp and nonce to the metadata of a call.
func stamp(ctx context.Context) context.Context {
	var n nonce
	rand.Read(n[:]) //nolint:errcheck // never fails: the process ends where there is no randomness
	return metadata.AppendToOutgoingContext(ctx, TimestampKey, strconv.FormatInt(time.Now().UnixNano(), 10), NonceKey, hex.EncodeToString(n[:]))
}

// replayGuard refuses stamps that are old, from the future, or were seen before. Its memory is two generations of nonces: a stamp
// that could still pass by its time is in one of them. It begins empty; across a restart TLS alone guards.
type replayGuard struct {
	window time.Duration
	limit  int // nonces per generation

	mu       sync.Mutex
	turned   time.Time // when current began
	current  map[nonce]struct{}
	previous map[nonce]struct{}
}

func newReplayGuard(window time.Duration, now time.Time) *replayGuard {
	return &replayGuard{window: window, limit: maxNonces, turned: now, current: map[nonce]struct{}{}}
}

// check answers whether the request is fresh, and remembers it. The error is a *themis.Error.
func (g *replayGuard) check(md metadata.MD, now time.Time) error {
	at, id, err := stampOf(md)
	if err != nil {
		return err
	}
	if off := now.Sub(at); off > g.window || off < -g.window {
		return themis.Errorf(themis.Unauthenticated, "the request was stamped at %s, this node's clock says %s: more than %s apart, so it is a replay or one clock is wrong",
			at.UTC().Format(time.RFC3339Nano), now.UTC().Format(time.RFC3339Nano), g.window).
			Do("correct the clock of the machine that is wrong, then repeat the command")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	// A stamp may be one window ahead and stays good for one window behind: two in all, so that is a generation's age.
	if age := now.Sub(g.turned); age >= 2*g.window || age < 0 {
		g.previous, g.current, g.turned = g.current, map[nonce]struct{}{}, now
		if age >= 4*g.window {
			g.previous = nil
		}
	}
	_, seen := g.current[id]
	if _, before := g.previous[id]; seen || before {
		return themis.Errorf(themis.Unauthenticated, "the request's nonce was used before: it is a replay")
	}
	if len(g.current) >= g.limit {
		return themis.Errorf(themis.Overloaded, "more than %d changing calls within %s: no more can be told from replays", g.limit, 2*g.window)
	}
	g.current[id] = struct{}{}
	return nil
}

// stampOf reads the stamp of a call.
func stampOf(md metadata.MD) (time.Time, nonce, error) {
	var id nonce
	bad := func(key, want string, have []string) error {
		return themis.Errorf(themis.InvalidArgument, "metadata %s: want one value, %s, have %.100q", key, want, have)
	}
	times, nonces := md.Get(TimestampKey), md.Get(NonceKey)
	if len(times) != 1 {
		return time.Time{}, id, bad(TimestampKey, "nanoseconds since 1970", times)
	}
	ns, err := strconv.ParseInt(times[0], 10, 64)
	if err != nil || ns <= 0 {
		return time.Time{}, id, bad(TimestampKey, "nanoseconds since 1970", times)
	}
	if len(nonces) != 1 || len(nonces[0]) != hex.EncodedLen(len(id)) {
		return time.Time{}, id, bad(NonceKey, "32 hexadecimal digits", nonces)
	}
	if _, err := hex.Decode(id[:], []byte(nonces[0])); err != nil {
		return time.Time{}, id, bad(NonceKey, "32 hexadecimal digits", nonces)
	}
	return time.Unix(0, ns), id, nil
}
