package tui

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// TestEveryWindowIsFilled draws every scene in every size: as many lines as the window has, and none wider.
func TestEveryWindowIsFilled(t *testing.T) {
	for name, s := range scenes() {
		for _, width := range []int{1, 8, 19, 20, 27, 40, 59, 60, 80, 99, 100, 149, 150, 200} {
			for _, height := range []int{1, 5, 6, 12, 24, 60} {
				for _, l := range []look{{}, {screen: replicationScreen, selected: 3}, {help: true}, {filter: "node-3"}, {typing: true, filter: "x"}, {screen: replicationScreen, filter: "none has this"}} {
					size := Size{width, height}
					lines := draw(s, l.clamp(s, size), size)
					if len(lines) != height {
						t.Fatalf("%s %v %+v: %d lines", name, size, l, len(lines))
					}
					for i, line := range lines {
						if w := lipgloss.Width(line.String()); w > width {
							t.Fatalf("%s %v %+v: line %d is %d wide: %q", name, size, l, i, w, line)
						}
					}
				}
			}
		}
	}
}

// TestNothingSentSteersTheTerminal has a node that calls itself by escape sequences.
func TestNothingSentSteersTheTerminal(t *testing.T) {
	w := degradedWorld()
	w.view.Meta.Name = "de\x1b]0;owned\x07mo"
	f := w.asFrame(cluster.Event{ID: "1", Action: "elect\x1b[2J", Subject: "shard-1\r\n", Outcome: "done\u202e", Reason: "\x9b31m"})
	f.Report.Findings[0].Why = "because\x1b[31m of\nthis"
	f.Report.Findings[0].Fix = "themis-cli \x1b[2J"
	f.Report.Nodes[0].Version = "1\x1b[0m"
	f.Report.Nodes[0].GRPC = "\x1b[5m"
	f.Report.Shards[0].Replicas[0].Why = "\x1b[1m"
	s := Scene{}.with(f, &History{})
	s.Problem = "\x1b[2J"
	for page := range screens {
		for _, r := range bare(draw(s, look{screen: page}, Size{160, 80})) {
			if r != '\n' && r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' {
				t.Errorf("screen %d shows %q", page, r)
			}
		}
	}
	m := model{scene: s, size: Size{80, 24}, colors: palette{}}
	if title := m.View().WindowTitle; strings.ContainsAny(title, "\x1b\x07") {
		t.Errorf("title %q", title)
	}
}

// TestUnknownIsNeverZero takes every number away.
func TestUnknownIsNeverZero(t *testing.T) {
	r := health.Report{
		Status: health.Degraded, Cluster: "demo",
		Nodes: []health.NodeReport{{ID: "node-a", State: cluster.Unknown}},
		Shards: []health.ShardReport{{ID: "shard-a", State: health.ShardDegraded, Primary: "node-a", Replicas: []health.ReplicaReport{
			{Node: "node-a", Role: health.Primary, State: cluster.Unknown}, {Node: "node-b", Role: health.Replica, State: cluster.Unknown},
			{Node: "node-c", Role: health.Spare, State: cluster.Unknown}}}},
	}
	h := &History{}
	h.Add(r)
	s := Scene{Known: true, Report: r, History: h}
	for _, lines := range [][]line{shardsTable(r, 140), replication(s, -1, 200)[1:]} {
		for _, l := range lines[2:] {
			text := strings.NewReplacer("rf0 k0", "", "  0  ", "").Replace(l.String())
			if strings.ContainsAny(text, "0123456789▁") {
				t.Errorf("a number that nobody knows: %q", l)
			}
		}
	}
	for _, g := range gauges(r) {
		if g.value != unknown {
			t.Errorf("%s is %s", g.name, g.value)
		}
	}
}

func TestGauges(t *testing.T) {
	shard := func(bytes int64) health.ShardReport {
		return health.ShardReport{Bytes: ptr(themis.Bytes(bytes)), Queued: ptr(int64(2)), Replicas: []health.ReplicaReport{{Role: health.Replica, LagMs: ptr(bytes / 1e6)}}}
	}
	got := gauges(health.Report{
		Nodes:  []health.NodeReport{{DiskUsed: ptr(0.2)}, {DiskUsed: ptr(0.91)}, {}},
		Shards: []health.ShardReport{shard(300e6), shard(100e6)},
	})
	want := []gauge{
		{"fullest disk", "91 %", "70 %", alarm}, {"shard skew", "50 %", "15 %", caution}, {"worst lag", "300 ms", "100 ms", caution}, {"waiting writes", "4", "", caution},
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	if g := skew([]health.ShardReport{shard(3e6), shard(1e6)}); g.value != "50 %" || g.tone != faint {
		t.Errorf("chance in small shards is an alarm: %+v", g)
	}
}

// TestManyFindingsOfOneKind has a dead node with a copy of each of fifty shards.
func TestManyFindingsOfOneKind(t *testing.T) {
	var list []health.Finding
	for i := range 50 {
		list = append(list, health.Finding{Code: health.ReplicaDead, Severity: health.Warning, Subject: fmt.Sprintf("shard-%d/node-3", i+1), Title: "A copy is on a failed node", Why: "because", Fix: "themis-cli x"})
	}
	list = append(list, health.Finding{Code: health.ReplicaDead, Severity: health.CriticalSv, Subject: "shard-9", Title: "worse", Why: "because"})
	groups := grouped(list)
	if len(groups) != 2 || len(groups[0].subjects) != 50 {
		t.Fatalf("%d groups, %d subjects", len(groups), len(groups[0].subjects))
	}
	got := bare(findings("Findings", Scene{}, groups[:1], 160))
	for _, want := range []string{"shard-1/node-3, shard-2/node-3", "and 44 more", "shard-1/node-3: because", "$ themis-cli x"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func TestSpare(t *testing.T) {
	r := health.Report{Shards: []health.ShardReport{{ID: "shard-1", State: health.ShardOK, Readable: ptr(true), Writable: ptr(true), Replicas: []health.ReplicaReport{
		{Node: "node-1", Role: health.Spare, State: cluster.Standby, FailoverReady: ptr(true), LagMs: ptr(int64(3))},
		{Node: "node-2", Role: health.Spare, State: cluster.CatchingUp, FailoverReady: ptr(false)},
	}}}}
	got := bare(shardsTable(r, 200))
	for _, want := range []string{"no PRIMARY", "◇ node-1 SPARE ready 3 ms", "◇ node-2 SPARE not ready, CATCHING_UP"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

// TestTheVerdictIsNeverStale holds that an old HEALTHY doesn't look like a present one.
func TestTheVerdictIsNeverStale(t *testing.T) {
	s := scenes()["healthy"]
	for _, c := range []struct {
		age, lost time.Duration
		problem   string
		want      string
	}{
		{0, 0, "", "● HEALTHY  3 nodes"},
		{3 * time.Second, 0, "", "● HEALTHY  3 nodes"},
		{4 * time.Second, 0, "", "✖ NOT LIVE  it was HEALTHY 4 s ago"},
		{time.Second, 0, "connection refused", "✖ NOT LIVE  it was HEALTHY 1 s ago"},
	} {
		s.Age, s.Lost, s.Problem = c.age, c.lost, c.problem
		lines := draw(s, look{}, Size{100, 30})
		if got := lines[1].String(); !strings.HasPrefix(got, c.want) {
			t.Errorf("%v %q: %q", c.age, c.problem, got)
		}
		for _, l := range lines {
			for _, p := range l {
				if !s.live() && p.tone == fine {
					t.Errorf("%v %q: %q is drawn as if it were known", c.age, c.problem, p.text)
				}
			}
		}
	}
}

func TestFilter(t *testing.T) {
	s := scenes()["degraded"].matching("NODE-2")
	if n := len(s.Report.Nodes); n != 1 {
		t.Errorf("%d nodes", n)
	}
	if n := len(s.Report.Shards); n != 2 {
		t.Errorf("%d shards", n)
	}
	s = scenes()["degraded"]
	all := draw(s, look{}, Size{120, 40})
	some := draw(s, look{filter: "no such thing"}, Size{120, 40})
	for i := range 3 {
		if all[i].String() != some[i].String() {
			t.Errorf("the filter changed the head: %q", some[i])
		}
	}
	if text := bare(some[4 : len(some)-1]); strings.Contains(text, "shard-") {
		t.Errorf("not filtered:\n%s", text)
	}
}

func TestPlain(t *testing.T) {
	all := scenes()
	golden(t, "plain-degraded.txt", Plain(all["degraded"], 100, false))
	if s := Still(healthyWorld().asFrame(trail()...)); !s.live() || len(s.Events) != 4 || !strings.Contains(Plain(s, 100, false), "● HEALTHY") {
		t.Errorf("a single frame: %s", Plain(s, 100, false))
	}
	for name, s := range all {
		for i, r := range Plain(s, 0, true) {
			if r > 126 {
				t.Errorf("%s: %q at %d is no ASCII", name, r, i)
				break
			}
		}
	}
}

func TestContrast(t *testing.T) {
	for dark, background := range map[bool]string{true: "#1e1e1e", false: "#ffffff"} {
		for tone, style := range paletteFor(dark) {
			if tone == strong {
				continue // the terminal's own colour
			}
			if c := contrast(style.GetForeground(), lipgloss.Color(background)); c < 4.5 {
				t.Errorf("tone %d on %s: %.1f : 1", tone, background, c)
			}
		}
	}
}

func TestPaletteChangesNoText(t *testing.T) {
	lines := draw(scenes()["degraded"], look{}, Size{100, 40})
	painted := paletteFor(true).paint(lines)
	if got := lipgloss.Width(painted); got > 100 {
		t.Errorf("painted %d wide", got)
	}
	if !strings.Contains(painted, "\x1b[") {
		t.Error("no colour at all")
	}
	if want := paletteFor(true)[caution].Bold(true).Render("▲ DEGRADED"); !strings.Contains(painted, want) {
		t.Errorf("the verdict does not stand out: %q", painted[:300])
	}
	var plainText []string
	for _, l := range lines {
		var b strings.Builder
		for _, p := range l {
			b.WriteString(p.text)
		}
		plainText = append(plainText, b.String())
	}
	if got := unstyled(painted); got != strings.Join(plainText, "\n") {
		t.Errorf("the palette changed the text:\n%s", got)
	}
}
