package tui

import (
	"fmt"

	"github.com/themisdb/themis/pkg/health"
)

// lagging is one row of the replication screen.
type lagging struct {
	shard health.ShardReport
	copy  health.ReplicaReport
}

// copiesOf are all copies of the report, by shard, each primary first.
func copiesOf(r health.Report) []lagging {
	var out []lagging
	for _, s := range r.Shards {
		for _, c := range s.Replicas {
			out = append(out, lagging{s, c})
		}
	}
	return out
}

const sparkWidth = 30

// replication is every copy with its position, its lag and what that was in the last five minutes.
func replication(s Scene, selected, width int) []line {
	if !s.Known {
		return nil
	}
	all := copiesOf(s.Report)
	head := heading("Copies", len(all))
	if len(all) == 0 {
		return []line{head}
	}
	steps := sparkWidth
	if width < 100 {
		steps = sparkWidth / 2
	}
	t := table{columns: []column{
		{title: "  SHARD"}, {title: "NODE"}, {title: "ROLE", drop: 10}, {title: "STATE", drop: 2}, {title: "ISR", drop: 9}, {title: "SEQ", right: true, drop: 12}, {title: "LSN", right: true, drop: 7},
		{title: "ENTRIES", right: true, drop: 6}, {title: "BYTES", right: true, drop: 5}, {title: "LAG", right: true}, {title: "5 MINUTES", drop: 3}, {title: "HEARD", right: true, drop: 11},
	}}
	for i, l := range all {
		lead := text(plain, "  ")
		if i == selected {
			lead = text(accent, "› ")
		}
		c := l.copy
		t.rows = append(t.rows, []line{
			row(lead, text(plain, string(l.shard.ID))), row(copyMark(c.Role), text(plain, " "+string(c.Node))), text(plain, string(c.Role)),
			text(stateTone(c.State), string(c.State)), inSync(c), text(plain, maybe(c.Seq, number)), text(plain, lsn(c.LSN)),
			text(plain, maybe(c.LagEntries, number)), text(plain, maybe(c.LagBytes, size)), text(over(c.LagMs), maybe(c.LagMs, span)),
			spark(s.History.Series(l.shard.ID, c.Node, steps), health.LagWarn.Milliseconds()), text(plain, maybe(c.AgeMs, span)),
		})
	}
	if s.History == nil {
		return append([]line{head}, t.without(10).lines(width)...)
	}
	return append([]line{ends(head, text(faint, fmt.Sprintf("bar %s: ▄ within, ▅ past it", span(health.LagWarn.Milliseconds()))), width)}, t.lines(width)...)
}

func inSync(c health.ReplicaReport) line {
	if c.InSyncSet {
		return text(plain, "in")
	}
	return text(caution, "out")
}

// lagChart draws the selected copy's lag. Below a height of 5 there is no room for it.
func lagChart(s Scene, selected, width, height int) []line {
	all := copiesOf(s.Report)
	if selected < 0 || selected >= len(all) || height < 5 {
		return nil
	}
	l := all[selected]
	head := row(text(strong, fmt.Sprintf("Lag of %s on %s", l.shard.ID, l.copy.Node)), space(2), text(over(l.copy.LagMs), maybe(l.copy.LagMs, span)), text(faint, "  (bar "+span(health.LagWarn.Milliseconds())+")"))
	if l.copy.Why != "" {
		head = row(head, text(caution, "  "+l.copy.Why))
	}
	series := func(n int) []int64 { return s.History.Series(l.shard.ID, l.copy.Node, n) }
	return append([]line{head.cut(width)}, chart(series, health.LagWarn.Milliseconds(), width, height-1)...)
}
