package tui

import (
	"fmt"
	"strings"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
)

const (
	narrow    = 60  // below it tables carry only what must be seen
	wide      = 150 // from here on findings and events stand beside the tables
	causesTop = 3   // findings that are told in full above the tables
	eventsMax = 200
)

// overview is the cluster on one page: what is wrong, the shards with their copies, the nodes, what happened.
func overview(s Scene, width int) []line {
	if !s.Known {
		return nil
	}
	urgent := keep(s.Report.Findings, func(f health.Finding) bool { return f.Severity != health.Info })
	advice := keep(s.Report.Findings, func(f health.Finding) bool { return f.Severity == health.Info })
	if width >= wide {
		left := (width - 3) * 11 / 20
		right := width - 3 - left
		return beside(
			sections(shardsTable(s.Report, left), nodesTable(s.Report, left), controlPlane(s.Report, left)),
			sections(findings("Findings", s, urgent, right), findings("Advice", s, advice, right), events(s, right)),
			left, 3)
	}
	top := urgent[:min(len(urgent), causesTop)]
	rest := urgent[len(top):]
	first := findings("Findings", s, top, width)
	if len(rest) > 0 {
		first = append(first, text(faint, fmt.Sprintf("  %d more below", len(rest))))
	}
	return sections(first, shardsTable(s.Report, width), nodesTable(s.Report, width), controlPlane(s.Report, width),
		findings("More findings", s, rest, width), events(s, width), findings("Advice", s, advice, width))
}

// sections puts an empty line between those that have something to say.
func sections(all ...[]line) []line {
	var out []line
	for _, s := range all {
		if len(s) == 0 {
			continue
		}
		if len(out) > 0 {
			out = append(out, nil)
		}
		out = append(out, s...)
	}
	return out
}

func heading(title string, n int) line {
	return row(text(strong, title), text(faint, fmt.Sprintf("  %d", n)))
}

func shardsTable(r health.Report, width int) []line {
	if len(r.Shards) == 0 {
		return []line{heading("Shards", 0)}
	}
	t := table{columns: []column{
		{title: "SHARD"}, {title: "STATE", drop: 7}, {title: "SERVES", drop: 4}, {title: "EPOCH", right: true, drop: 3}, {title: "MODE", drop: 5},
		{title: "DOCUMENTS", right: true, drop: 2}, {title: "SIZE", right: true, drop: 6}, {title: "COPIES"},
	}}
	if width < narrow {
		for i := 1; i < 7; i++ {
			t.columns[i].drop = 9
		}
	}
	for _, s := range r.Shards {
		tone, mark := shardLook(s.State)
		cells := []line{
			row(text(tone, mark), text(plain, " "+string(s.ID))), text(tone, string(s.State)), serves(s), text(plain, fmt.Sprint(s.Epoch)), mode(s),
			text(plain, maybe(s.Documents, number)), text(plain, maybe(s.Bytes, size)),
		}
		copies := copyCells(s, width < narrow)
		for i, c := range copies {
			if i > 0 {
				cells = make([]line, 7)
			}
			t.rows = append(t.rows, append(cells[:7:7], c))
		}
	}
	t = sideBySide(t, width)
	return append([]line{heading("Shards", len(r.Shards))}, t.lines(width)...)
}

// sideBySide puts the copies of a shard on one line where there is room for every column and all copies.
func sideBySide(t table, width int) table {
	last := len(t.columns) - 1
	joined := table{columns: t.columns}
	slots := []int{} // widths of the first copy, the second …
	at := 0
	for _, r := range t.rows {
		if at++; len(r[0]) > 0 {
			at = 0
		}
		if at == len(slots) {
			slots = append(slots, 0)
		}
		slots[at] = max(slots[at], r[last].width())
	}
	for _, r := range t.rows {
		if len(r[0]) > 0 {
			joined.rows = append(joined.rows, append(r[:last:last], r[last]))
			at = 0
			continue
		}
		row0 := joined.rows[len(joined.rows)-1]
		row0[last] = row(row0[last], space(slots[at]-lastPart(row0[last], slots[:at])), space(columnGap), r[last])
		at++
	}
	full := -columnGap
	for i, c := range joined.columns {
		w := len(c.title)
		for _, r := range joined.rows {
			w = max(w, r[i].width())
		}
		full += w + columnGap
	}
	if full > width {
		return t
	}
	return joined
}

// lastPart is the width of what stands behind the slots before.
func lastPart(l line, before []int) int {
	w := l.width()
	for _, b := range before {
		w -= b + columnGap
	}
	return w
}

func serves(s health.ShardReport) line {
	switch {
	case s.Readable == nil:
		return text(faint, unknown)
	case !*s.Readable:
		return text(alarm, "nothing")
	case s.Writable == nil:
		return text(faint, "reads, "+unknown)
	case !*s.Writable:
		return text(caution, "reads only")
	}
	return text(plain, "all")
}

func mode(s health.ShardReport) line {
	words := fmt.Sprintf("%s rf%d k%d", s.Mode, s.RF, s.K)
	if s.Want != nil {
		return text(caution, fmt.Sprintf("%s → %s rf%d k%d", words, s.Want.Mode, s.Want.RF, s.Want.K))
	}
	return text(plain, words)
}

// copyCells is one cell per copy, the primary first.
func copyCells(s health.ShardReport, short bool) []line {
	var out []line
	if s.Primary == "" {
		out = append(out, row(text(alarm, markPrimary), text(alarm, " no PRIMARY")))
	}
	for _, c := range s.Replicas {
		l := row(copyMark(c.Role), space(1), text(plain, string(c.Node)))
		switch {
		case c.Role == health.Primary && c.State == cluster.InSync:
			l = row(l, text(accent, " PRIMARY"))
		case c.Role == health.Primary:
			l = row(l, text(accent, " PRIMARY "), text(stateTone(c.State), string(c.State)))
		case c.Role == health.Spare:
			l = row(l, text(plain, " SPARE "), readiness(c))
		case short:
			l = row(l, space(1), text(stateTone(c.State), string(c.State)), progress(c))
		default:
			l = row(l, text(plain, " REPLICA "), text(stateTone(c.State), string(c.State)), progress(c))
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		out = append(out, text(alarm, "no copy"))
	}
	return out
}

// readiness is whether a spare could take over.
func readiness(c health.ReplicaReport) line {
	switch {
	case c.FailoverReady == nil:
		return text(faint, string(c.State)+", readiness "+unknown)
	case *c.FailoverReady:
		return row(text(fine, "ready"), progress(c))
	}
	return row(text(caution, "not ready, "+string(c.State)), progress(c))
}

// progress is the lag of a copy, or how far it has been built.
func progress(c health.ReplicaReport) line {
	if b := c.Rebuild; b != nil {
		words := " " + size(int64(b.Bytes))
		if b.Percent != nil {
			words = fmt.Sprintf(" %.0f %%", *b.Percent)
		}
		if b.ETAMs != nil {
			words += ", ETA " + span(*b.ETAMs)
		}
		return text(caution, words)
	}
	if c.LagMs == nil {
		return nil
	}
	return text(max(faint, over(c.LagMs)), " "+span(*c.LagMs))
}

func nodesTable(r health.Report, width int) []line {
	t := table{columns: []column{
		{title: "NODE"}, {title: "STATE"}, {title: "ROLE", drop: 3}, {title: "DISK", right: true}, {title: "HEARD", right: true}, {title: "LEADS", right: true, drop: 6},
		{title: "COPIES", right: true, drop: 5}, {title: "UP", right: true, drop: 4}, {title: "VERSION", drop: 2}, {title: "PLACE", drop: 7}, {title: "ADDRESS", drop: 8},
	}}
	for _, n := range r.Nodes {
		disk := plain
		if n.DiskUsed != nil {
			disk = max(plain, map[bool]tone{true: graded(true, *n.DiskUsed > health.DiskCriticalRatio)}[*n.DiskUsed > health.DiskWarnRatio])
		}
		heard := unknown
		if n.LastHeartbeat != nil {
			heard = span(*n.LastHeartbeat)
		}
		t.rows = append(t.rows, []line{
			text(plain, string(n.ID)), text(stateTone(n.State), string(n.State)), text(plain, string(n.Role)), text(disk, percent(n.DiskUsed)), text(plain, heard),
			text(plain, fmt.Sprint(n.Primaries)), text(plain, fmt.Sprint(n.Copies)), text(plain, maybe(n.UptimeMs, span)), text(plain, or(n.Version)),
			text(plain, strings.Trim(n.Datacenter+" "+n.Rack, " ")), text(plain, n.GRPC),
		})
	}
	head := heading("Nodes", len(r.Nodes))
	if len(r.Nodes) == 0 {
		return []line{head}
	}
	return append([]line{head}, t.lines(width)...)
}

// controlPlane is who decides, and whether it can.
func controlPlane(r health.Report, width int) []line {
	c := r.Control
	quorum := text(faint, "quorum "+unknown)
	if c.Quorum != nil && *c.Quorum {
		quorum = text(fine, "has quorum")
	} else if c.Quorum != nil {
		quorum = text(alarm, "no quorum")
	}
	facts := []line{
		row(text(faint, "mode "), text(plain, or(c.Mode))), quorum,
		row(text(faint, "leader "), text(plain, or(string(c.Leader)))), row(text(faint, "controller "), text(plain, or(string(c.Controller)))),
	}
	var members line
	for i, m := range c.Members {
		if i > 0 {
			members = row(members, text(plain, ", "))
		}
		t := plain
		if m.State == health.Down {
			t = alarm
		}
		members = row(members, text(plain, string(m.Node)+" "), text(t, m.State))
	}
	if len(members) > 0 {
		facts = append(facts, row(text(faint, "members "), members))
	}
	return append([]line{text(strong, "Control plane")}, flow(facts, 3, width)...)
}

// flow sets pieces behind each other, and begins a new line where one has no room.
func flow(parts []line, gap, width int) []line {
	var out []line
	var now line
	for _, p := range parts {
		switch {
		case len(now) == 0:
			now = p
		case now.width()+gap+p.width() <= width:
			now = row(now, space(gap), p)
		default:
			out = append(out, now)
			now = p
		}
	}
	if len(now) > 0 {
		out = append(out, now.cut(width))
	}
	return out
}

// findings tells each with its why and what to type.
func findings(title string, s Scene, list []health.Finding, width int) []line {
	if len(list) == 0 {
		return nil
	}
	out := []line{heading(title, len(list))}
	for _, f := range list {
		t, mark := severityLook(f.Severity)
		age := line(nil)
		if f.Since != nil {
			age = text(faint, "for "+seconds(max(0, s.Report.Time.Sub(*f.Since))))
		}
		out = append(out, ends(row(text(t, mark+" "), text(plain, subject(f)+f.Title)), age, width))
		out = append(out, paragraph(faint, 2, f.Why, width)...)
		out = append(out, command(f.Fix, width)...)
	}
	return out
}

// command is what to type; it is broken between words only, so that it can be copied.
func command(fix string, width int) []line {
	var out []line
	for i, l := range folded(fix, width-4) {
		lead := "  $ "
		if i > 0 {
			lead = "    "
		}
		out = append(out, row(text(faint, lead), text(accent, l)))
	}
	return out
}

const eventsShown = 20

// events are the newest lines of the audit trail, the newest first.
func events(s Scene, width int) []line {
	if len(s.Events) == 0 {
		return nil
	}
	t := table{columns: []column{{title: "UTC"}, {title: "OUTCOME", drop: 1}, {title: "ACTION"}, {title: "SUBJECT"}, {title: "WHY", drop: 2}}}
	for _, e := range s.Events[:min(len(s.Events), eventsShown)] {
		tone := plain
		if e.Outcome != "done" {
			tone = caution
		}
		why := e.Reason
		if e.Epoch > 0 {
			why = strings.TrimSpace(fmt.Sprintf("epoch %d  %s", e.Epoch, why))
		}
		t.rows = append(t.rows, []line{
			text(faint, e.Time.UTC().Format("15:04:05")), text(tone, e.Outcome), text(plain, e.Action), text(plain, e.Subject), text(faint, cutWords(why, 200)),
		})
	}
	t.columns[4].drop = 0
	if width < narrow {
		t.columns[4].drop = 2
	}
	return append([]line{heading("Newest events", len(s.Events))}, t.lines(width)...)
}

func cutWords(s string, width int) string { return text(plain, s).cut(width).String() }
