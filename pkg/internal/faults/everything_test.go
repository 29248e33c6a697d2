package faults

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Row 62, everything at random: kills, pauses, cuts, slow and lossy links, other modes, by seed, in rounds. After each the faults end, the
// cluster must be whole within a minute, and the round's history must be linearizable. One short round is for every run; the
// long one is
//
//	THEMIS_FAULTS=10m THEMIS_SEED=7 go test -v -run TestEverything ./pkg/internal/faults -timeout 40m
//
// and, where it ends well on a tree without uncommitted changes, leaves its report in docs/reports.
func TestEverything(t *testing.T) {
	long, seed := everything(t)
	round := 20 * time.Second
	if long == 0 {
		round = 8 * time.Second
	}
	h := newHosts(t, setup{net: true, rf: 3, names: []string{"node-1", "node-2", "node-3", "node-4"}})
	r := report{Began: time.Now().UTC(), Seed: seed, Faults: map[string]int{}}
	for began := time.Now(); r.Rounds == 0 || time.Since(began) < long; r.Rounds++ {
		draw := func() []gust {
			return forecast(rand.New(rand.NewPCG(uint64(seed), uint64(r.Rounds))), h.names, round) //nolint:gosec // any number does
		}
		gusts := draw()
		for long == 0 && !slices.ContainsFunc(gusts, func(g gust) bool { return g.kind == "kill" }) { // the short round has one
			seed++
			gusts = draw()
		}
		t.Logf("seed %d, round %d:", seed, r.Rounds)
		for _, g := range gusts {
			t.Log("  ", g)
			r.Faults[g.kind]++
		}
		h.round(t, &r, gusts)
		if t.Failed() {
			t.Fatalf("seed %d, round %d", seed, r.Rounds)
		}
	}
	t.Logf("%d rounds, %d operations, %d acknowledged writes, whole after %d ms at most", r.Rounds, r.Operations, r.Writes, r.HealMs)
	if long > 0 {
		r.write(t)
	}
}

// everything is how long to run, 0 for one round, and by which seed.
func everything(t *testing.T) (long time.Duration, seed int64) {
	t.Helper()
	NeedRoot(t)
	var err error
	if text := os.Getenv("THEMIS_FAULTS"); text != "" {
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatalf("THEMIS_FAULTS=%q: %v", text, err)
		}
	}
	seed = time.Now().Unix()
	if s := os.Getenv("THEMIS_SEED"); s != "" {
		if seed, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatalf("THEMIS_SEED=%q: %v", s, err)
		}
	}
	return long, seed
}

func (h *hosts) round(t *testing.T, r *report, gusts []gust) {
	t.Helper()
	w := h.workNear(3*len(h.names), fmt.Sprintf("round-%d-", r.Rounds))
	w.more(t, 100, rto)
	h.storm(t, gusts)
	h.net.Heal()
	over := time.Now()
	h.until("all is whole again", heal, healthy)
	r.HealMs = max(r.HealMs, time.Since(over).Milliseconds())
	w.more(t, 50, rto)
	w.end(t, 150)
	r.Operations += len(w.history)
	r.Writes += w.writes.Load()
}

// report is what .ci/statuscheck reads, and the figures of the run.
type report struct {
	Command    string         `json:"command"`
	Commit     string         `json:"commit"`
	Seed       int64          `json:"seed"`
	Began      time.Time      `json:"date"`
	Tests      []string       `json:"tests"`
	Took       string         `json:"took"`
	Rounds     int            `json:"rounds"`
	Faults     map[string]int `json:"faults"`
	Operations int            `json:"operations"`
	Writes     int64          `json:"acknowledged_writes"`
	HealMs     int64          `json:"whole_after_ms_at_most"`
}

func (r report) write(t *testing.T) {
	t.Helper()
	git := func(args ...string) string {
		out, err := exec.Command("git", args...).Output() //nolint:gosec,noctx // local
		if err != nil {
			t.Logf("no report: git %s: %v", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out))
	}
	if changed := git("status", "--porcelain", "--untracked-files=no"); changed != "" {
		t.Logf("no report: the tree has changes that are not committed:\n%s", changed)
		return
	}
	r.Commit, r.Tests, r.Took = git("rev-parse", "HEAD"), []string{"pkg/internal/faults.TestEverything"}, time.Since(r.Began).Round(time.Second).String()
	r.Command = fmt.Sprintf("THEMIS_FAULTS=%s THEMIS_SEED=%d go test -v -run TestEverything ./pkg/internal/faults -timeout 40m", os.Getenv("THEMIS_FAULTS"), r.Seed)
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join("..", "..", "..", "docs", "reports")
	name := filepath.Join(dir, fmt.Sprintf("everything-%s.json", r.Began.Format("2006-01-02")))
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a folder of the tree
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil { //nolint:gosec // a report
		t.Fatal(err)
	}
	t.Logf("report: %s", name)
}
