package tui

import (
	"image/color"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/themisdb/themis/pkg/health"
)

var escapes = regexp.MustCompile(`\x1b\[[0-9;:]*m`)

func unstyled(s string) string { return escapes.ReplaceAllString(s, "") }

// contrast is that of WCAG 2.
func contrast(a, b color.Color) float64 {
	luminance := func(c color.Color) float64 {
		r, g, b, _ := c.RGBA()
		part := func(v uint32) float64 {
			f := float64(v) / 0xffff
			if f <= 0.03928 {
				return f / 12.92
			}
			return math.Pow((f+0.055)/1.055, 2.4)
		}
		return 0.2126*part(r) + 0.7152*part(g) + 0.0722*part(b)
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func TestCut(t *testing.T) {
	l := row(text(strong, "shard-1"), text(plain, " → 漢字"))
	for width, want := range map[int]string{20: "shard-1 → 漢字", 14: "shard-1 → 漢字", 13: "shard-1 → 漢…", 12: "shard-1 → …", 8: "shard-1…", 7: "shard-…", 1: "…", 0: ""} {
		got := l.cut(width)
		if got.String() != want || got.width() > width {
			t.Errorf("cut(%d) = %q, want %q", width, got, want)
		}
	}
}

func TestFolded(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"one two three", 7, "one two|three"}, {"one two three", 80, "one two three"}, {"", 10, ""}, {"abcdefghij kl", 4, "abcd|efgh|ij|kl"}, {"a\nb\x1b[1m", 80, "a b [1m"},
	} {
		if got := strings.Join(folded(c.text, c.width), "|"); got != c.want {
			t.Errorf("folded(%q, %d) = %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{number(0), "0"}, {number(999), "999"}, {number(1000), "1,000"}, {number(1234567), "1,234,567"}, {number(-1234), "-1,234"},
		{size(0), "0 B"}, {size(1023), "1023 B"}, {size(1536), "1.5 KiB"}, {size(64 << 20), "64.0 MiB"}, {size(math.MaxInt64), "8192.0 PiB"},
		{span(0), "0 ms"}, {span(999), "999 ms"}, {span(4200), "4.2 s"}, {span(185_000), "3 min 5 s"}, {span(7_800_000), "2 h 10 min"}, {span(12 * 86_400_000), "12 days"},
		{seconds(14*time.Second + 900*time.Millisecond), "14 s"}, {count(1, "node"), "1 node"}, {count(2, "copy"), "2 copies"}, {percent(nil), "?"}, {maybe[int64](nil, number), "?"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestTableDropsWhatMattersLeast(t *testing.T) {
	tab := table{columns: []column{{title: "A"}, {title: "BB", right: true, drop: 2}, {title: "CC", drop: 1}, {title: "D", least: 4}}}
	tab.rows = [][]line{{text(plain, "aaaa"), text(plain, "1"), text(plain, "cc"), text(plain, "a long last column")}}
	for width, want := range map[int]string{
		40: "A     BB  CC  D\naaaa   1  cc  a long last column\n",
		18: "A     BB  CC  D\naaaa   1  cc  a l…\n",
		16: "A     CC  D\naaaa  cc  a lon…\n",
		10: "A     D\naaaa  a l…\n",
		3:  "A …\naa…\n",
	} {
		if got := bare(tab.lines(width)); got != want {
			t.Errorf("width %d:\n%s", width, got)
		}
	}
}

func TestSpark(t *testing.T) {
	got := spark([]int64{-1, 0, 1, 34, 67, 100, 101, 400, 401, 1600, 1601, 6400, 6401, math.MaxInt64 / 8}, 100)
	if want := " ▁▂▂▃▄▅▅▆▆▇▇██"; got.String() != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, p := range got {
		past := strings.ContainsAny(p.text, "▅▆▇█")
		if past != (p.tone == caution || p.tone == alarm) {
			t.Errorf("%q has tone %d", p.text, p.tone)
		}
	}
}

func TestChart(t *testing.T) {
	values := []int64{-1, 0, 50, 100, 200, 400, -1, -1, 300, 300, 0, 0, -1, 0, 0, 0}
	got := bare(chart(func(n int) []int64 {
		out := make([]int64, n)
		for i := range out {
			out[i] = values[i*len(values)/n]
		}
		return out
	}, 100, 41, 8))
	golden(t, "chart.txt", got)
	if lines := chart(func(n int) []int64 { return make([]int64, n) }, 100, 12, 8); lines != nil {
		t.Errorf("a chart without room: %q", bare(lines))
	}
	for _, v := range []int64{0, 99, 100, 101, lagMost} {
		lines := chart(func(n int) []int64 { return []int64{v} }, 100, 30, 6)
		for _, l := range lines {
			if lipgloss.Width(l.String()) > 30 {
				t.Errorf("value %d: too wide: %q", v, l)
			}
		}
	}
}

func TestRoundUp(t *testing.T) {
	for n, want := range map[int64]int64{1: 10, 10: 10, 11: 15, 90: 100, 110: 150, 704: 800, 801: 1000} {
		if got := roundUp(n); got != want {
			t.Errorf("roundUp(%d) = %d, want %d", n, got, want)
		}
	}
}

func reportAt(at time.Time, lag *int64) health.Report {
	return health.Report{Time: at, Shards: []health.ShardReport{{ID: "shard-1", Replicas: []health.ReplicaReport{{Node: "node-2", LagMs: lag}}}}}
}

func TestHistory(t *testing.T) {
	h := &History{}
	at := func(n int) []int64 { return h.Series("shard-1", "node-2", n) }
	last := func() int64 { s := at(buckets); return s[buckets-1] }
	if got := at(3); got[0] != noValue || got[2] != noValue {
		t.Errorf("an empty history: %v", got)
	}
	h.Add(reportAt(noon, ptr(int64(7))))
	h.Add(reportAt(noon.Add(time.Second), ptr(int64(5))))
	if last() != 7 {
		t.Errorf("the largest of a bucket is %d", last())
	}
	h.Add(reportAt(noon.Add(2*time.Second), nil))
	if last() != noValue {
		t.Errorf("unknown became %d", last())
	}
	h.Add(reportAt(noon.Add(-time.Hour), ptr(int64(9)))) // another node's clock
	if last() != 9 {
		t.Errorf("a report from behind is %d", last())
	}
	h.Add(reportAt(noon.Add(historyFor), ptr(int64(1))))
	if got := at(buckets); got[0] != 9 || got[buckets-1] != 1 {
		t.Errorf("five minutes later: %d … %d", got[0], got[buckets-1])
	}
	if got := at(2 * buckets); got[0] != 9 || got[1] != 9 || got[2] != noValue {
		t.Errorf("twice as fine: %v", got[:3])
	}
	if got := at(1); got[0] != 9 {
		t.Errorf("in one step: %v", got)
	}
	h.Add(reportAt(noon.Add(24*time.Hour), nil))
	if len(h.copies) != 0 {
		t.Errorf("%d copies are remembered that nobody has seen for a day", len(h.copies))
	}
	h.Add(reportAt(noon.Add(24*time.Hour), ptr(int64(math.MaxInt64))))
	if last() != lagMost {
		t.Errorf("a claim without bound: %d", last())
	}
}
