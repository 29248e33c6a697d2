package tui

import (
	"fmt"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
)

// Scene is all that screens are drawn from. It is a value; screens only read it.
type Scene struct {
	Known   bool // a report has come
	Report  health.Report
	Events  []cluster.Event // the newest first
	History *History        // nil: nothing is remembered

	Age     time.Duration // of the report, by the clock of this machine
	Lost    time.Duration // how long the source has failed; 0: it doesn't
	Problem string        // how it fails
}

// staleAfter is from when on a report is no longer the present: frames come every second.
const staleAfter = 4 * time.Second

// live answers whether what is shown is the present.
func (s Scene) live() bool { return s.Known && s.Problem == "" && s.Age < staleAfter }

// matching keeps the nodes, copies, findings and events whose names contain q. The verdict is never filtered.
func (s Scene) matching(q string) Scene {
	if q == "" {
		return s
	}
	has := func(words ...string) bool {
		return strings.Contains(strings.ToLower(strings.Join(words, "\n")), strings.ToLower(q))
	}
	r := s.Report
	r.Nodes = keep(r.Nodes, func(n health.NodeReport) bool {
		return has(string(n.ID), string(n.Role), string(n.State), n.Region, n.Datacenter, n.Rack)
	})
	r.Shards = keep(r.Shards, func(x health.ShardReport) bool {
		words := []string{string(x.ID), string(x.State), string(x.Mode)}
		for _, c := range x.Replicas {
			words = append(words, string(c.Node), string(c.State))
		}
		return has(words...)
	})
	r.Findings = keep(r.Findings, func(f health.Finding) bool { return has(string(f.Code), f.Subject, f.Title, f.Why) })
	s.Events = keep(s.Events, func(e cluster.Event) bool { return has(e.Action, e.Subject, e.Outcome, e.Reason, e.Actor.ID) })
	s.Report = r
	return s
}

func keep[T any](list []T, ok func(T) bool) []T {
	var out []T
	for _, v := range list {
		if ok(v) {
			out = append(out, v)
		}
	}
	return out
}

// verdict is the cluster in one line, with its cause; below it, where the source is silent, how long and why.
func verdict(s Scene, width int) []line {
	if !s.Known {
		if s.Problem == "" {
			return []line{text(faint, "waiting for the first word of the cluster")}
		}
		return lost(s, width, "no word of the cluster yet")
	}
	t, mark := statusLook(s.Report.Status)
	if !s.live() {
		return append([]line{row(text(alarm|loud, markBad+" NOT LIVE"), text(strong, "  it was "+string(s.Report.Status)+" "+seconds(s.Age)+" ago"), text(faint, "  "+cause(s.Report))).cut(width)},
			lost(s, width, "")...)
	}
	return []line{row(text(t|loud, mark+" "+string(s.Report.Status)), text(plain, "  "+cause(s.Report))).cut(width)}
}

const lostLines = 2

// lost says that the source is silent.
func lost(s Scene, width int, otherwise string) []line {
	what := otherwise
	if s.Problem != "" {
		what = fmt.Sprintf("no answer for %s, trying again: %s", seconds(s.Lost), s.Problem)
	} else if what == "" {
		what = "no frame has come since; waiting"
	}
	out := paragraph(caution, 2, what, width)
	if len(out) > lostLines {
		out = append(out[:lostLines-1:lostLines-1], row(out[lostLines-1].cut(width-2), text(caution, " …")))
	}
	return out
}

// cause is why the status is what it is.
func cause(r health.Report) string {
	kinds := grouped(keep(r.Findings, func(f health.Finding) bool {
		check, _ := f.Code.Check()
		return check.Degrades
	}))
	if len(kinds) > 0 {
		words := kinds[0].Title + about(kinds[0].subjects)
		if len(kinds) > 1 {
			words += "; and " + count(len(kinds)-1, "more finding")
		}
		return words
	}
	copies := 0
	for _, s := range r.Shards {
		copies += len(s.Replicas)
	}
	return fmt.Sprintf("%s, %s, %s, all as they should be", count(len(r.Nodes), "node"), count(len(r.Shards), "shard"), count(copies, "copy"))
}

// gauge is one critical metric against its bar.
type gauge struct {
	name, value, bar string
	tone             tone
}

// gauges are those critical metrics that the report knows.
func gauges(r health.Report) []gauge {
	disk := gauge{"fullest disk", unknown, "70 %", faint}
	var fullest float64
	for _, n := range r.Nodes {
		if n.DiskUsed != nil && (disk.value == unknown || *n.DiskUsed > fullest) {
			fullest = *n.DiskUsed
			disk.value = percent(&fullest)
			disk.tone = graded(fullest > health.DiskWarnRatio, fullest > health.DiskCriticalRatio)
		}
	}
	lag := gauge{"worst lag", unknown, span(health.LagWarn.Milliseconds()), faint}
	var queued *int64
	worst := int64(-1)
	for _, s := range r.Shards {
		for _, c := range s.Replicas {
			if c.Role != health.Primary && c.LagMs != nil && *c.LagMs > worst {
				worst = *c.LagMs
				lag.value, lag.tone = span(worst), max(fine, over(&worst))
			}
		}
		if s.Queued != nil {
			sum := *s.Queued
			if queued != nil {
				sum += *queued
			}
			queued = &sum
		}
	}
	waiting := gauge{"waiting writes", maybe(queued, number), "", faint}
	if queued != nil {
		waiting.tone = graded(*queued > 0, false)
	}
	return []gauge{disk, skew(r.Shards), lag, waiting}
}

func graded(isCaution, isAlarm bool) tone {
	switch {
	case isAlarm:
		return alarm
	case isCaution:
		return caution
	}
	return fine
}

// skew is how much more than the mean the largest shard holds. In small shards it is chance and has no colour.
func skew(shards []health.ShardReport) gauge {
	g := gauge{"shard skew", unknown, "15 %", faint}
	sum, largest := 0.0, 0.0
	for _, s := range shards {
		if s.Bytes == nil {
			return g
		}
		sum += float64(*s.Bytes)
		largest = max(largest, float64(*s.Bytes))
	}
	if sum == 0 {
		return g
	}
	over := largest*float64(len(shards))/sum - 1
	g.value = percent(&over)
	if largest >= health.SkewMinBytes {
		g.tone = graded(over > health.SkewWarnRatio, false)
	}
	return g
}

// gaugeLine writes the gauges with their bars, or without where there is no room.
func gaugeLine(r health.Report, width int) line {
	short := map[string]string{"fullest disk": "disk", "shard skew": "skew", "worst lag": "lag", "waiting writes": "queue"}
	var long, brief line
	for i, g := range gauges(r) {
		if i > 0 {
			long, brief = row(long, space(4)), row(brief, space(2))
		}
		long = row(long, text(faint, g.name+" "), text(g.tone, g.value))
		if g.bar != "" {
			long = row(long, text(faint, " (bar "+g.bar+")"))
		}
		brief = row(brief, text(faint, short[g.name]+" "), text(g.tone, g.value))
	}
	if long.width() <= width {
		return long
	}
	return brief.cut(width)
}
