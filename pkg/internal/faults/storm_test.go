package faults

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// gust is one fault of a storm: what happens, when it begins and when it ends.
type gust struct {
	at, until time.Duration
	kind      string
	nodes     []string // whom it strikes
	others    []string // whom those are cut off from
	link      Link
}

func (g gust) String() string {
	s := fmt.Sprintf("%4.1f–%4.1f s %s %s", g.at.Seconds(), g.until.Seconds(), g.kind, strings.Join(g.nodes, " "))
	if len(g.others) > 0 {
		s += " | " + strings.Join(g.others, " ")
	}
	return s
}

// kinds of gusts, by how often they come.
var gustKinds = []string{"kill", "kill", "pause", "cut", "cut", "cut pair", "deaf", "mute", "etcd", "slow", "thin", "mode", "kill all"}

// forecast draws the faults of one round: they overlap, but no process is struck while it is down. Everything is over by the end.
func forecast(rng *rand.Rand, names []string, long time.Duration) (out []gust) {
	busy := map[string]time.Duration{} // until when a node is down
	for at := time.Duration(0); at < long; at += time.Duration(500+rng.IntN(4500)) * time.Millisecond {
		g := gust{at: at, kind: gustKinds[rng.IntN(len(gustKinds))]}
		g.until = min(long, at+time.Duration(300+rng.IntN(9700))*time.Millisecond)
		one := names[rng.IntN(len(names))]
		rest := without(names, one)
		g.nodes = []string{one}
		switch g.kind {
		case "kill all":
			g.nodes, g.until = names, min(g.until, at+time.Second)
		case "cut", "deaf", "mute":
			g.others, g.link = rest, Link{Cut: true}
		case "cut pair":
			g.others, g.link = []string{rest[rng.IntN(len(rest))]}, Link{Cut: true}
		case "etcd":
			g.others, g.link = rest, Link{Cut: true, Ports: ownPorts[3:]}
		case "slow":
			g.nodes, g.others = names, names
			g.link = Link{Delay: time.Duration(1+rng.IntN(40)) * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.02 * rng.Float64()}
		case "thin":
			g.others, g.link = rest, Link{Rate: 32 << 10}
		}
		if g.process() {
			if slices.ContainsFunc(g.nodes, func(n string) bool { return busy[n] >= at }) {
				continue
			}
			for _, n := range g.nodes {
				busy[n] = g.until
			}
		}
		out = append(out, g)
	}
	return out
}

// process says whether it strikes processes, not links.
func (g gust) process() bool { return strings.HasPrefix(g.kind, "kill") || g.kind == "pause" }

// mode asks all shards for another mode, through the first node that takes it. Under a storm none may: then nothing is changed.
func (h *hosts) mode(t *testing.T, mode themis.Mode) {
	for _, n := range h.names {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		c, err := h.pool.Admin(ctx, h.addr[n]["grpc"], themis.NodeID(n))
		if err == nil {
			_, err = c.Act(ctx, &nodev1.ActRequest{Verb: "replication.set-mode", ArgsJson: fmt.Appendf(nil, `{"mode":%q}`, mode)})
		}
		cancel()
		if err == nil {
			return
		}
	}
}

// storm lets the gusts blow, in their time.
func (h *hosts) storm(t *testing.T, gusts []gust) {
	t.Helper()
	type change struct {
		at    time.Duration
		gust  int
		begin bool
	}
	var changes []change
	for i, g := range gusts {
		changes = append(changes, change{g.at, i, true}, change{g.until, i, false})
	}
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	began := time.Now()
	blowing := map[int]bool{}
	var asked sync.WaitGroup
	defer asked.Wait()
	for _, c := range changes {
		<-time.After(c.at - time.Since(began))
		blowing[c.gust] = c.begin
		g := gusts[c.gust]
		switch {
		case g.kind == "mode" && c.begin:
			asked.Go(func() { h.mode(t, themis.SemiSync) })
		case g.kind == "mode":
			asked.Go(func() { h.mode(t, themis.Sync) })
		case !g.process():
			h.links(gusts, blowing)
		case g.kind == "pause" && c.begin:
			h.pause(g.nodes[0])
		case g.kind == "pause":
			h.resume(g.nodes[0])
		case c.begin:
			h.kill(g.nodes...)
		default:
			for _, n := range g.nodes {
				h.start(n)
			}
		}
	}
}

// links makes every link what the faults that are under way make it; later ones count where several meet.
func (h *hosts) links(gusts []gust, blowing map[int]bool) {
	h.net.Heal()
	for i, g := range gusts {
		if !blowing[i] || g.process() || g.kind == "mode" {
			continue
		}
		for _, a := range g.nodes {
			for _, b := range without(g.others, a) {
				if g.kind != "mute" {
					h.net.Set(b, a, g.link)
				}
				if g.kind != "deaf" {
					h.net.Set(a, b, g.link)
				}
			}
		}
	}
}

// Whatever is drawn is over in time, strikes nobody who is down, and is the same for the same seed.
func TestForecast(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	seen := map[string]bool{}
	for seed := range uint64(200) {
		gusts := forecast(rand.New(rand.NewPCG(seed, 1)), names, 20*time.Second)
		if again := forecast(rand.New(rand.NewPCG(seed, 1)), names, 20*time.Second); fmt.Sprint(again) != fmt.Sprint(gusts) {
			t.Fatalf("seed %d: %v, then %v", seed, gusts, again)
		}
		down := map[string]time.Duration{}
		for _, g := range gusts {
			seen[g.kind] = true
			if g.until > 20*time.Second || g.until < g.at {
				t.Errorf("seed %d: %s", seed, g)
			}
			for _, n := range g.nodes {
				if g.process() && down[n] > g.at {
					t.Errorf("seed %d: %s is down at %s", seed, n, g)
				}
				if g.process() {
					down[n] = g.until
				}
			}
		}
	}
	for _, k := range gustKinds {
		if !seen[k] {
			t.Errorf("no seed drew %q", k)
		}
	}
}
