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
	tall      = 36  // from here on three findings are told in full above the tables, else one
	eventsMax = 200
)

// overview is the cluster on one page: what is wrong, the shards with their copies, the nodes, what happened.
func overview(s Scene, size Size) []line {
	if !s.Known {
		return nil
	}
	r, width := s.Report, size.Width
	urgent := grouped(keep(r.Findings, func(f health.Finding) bool { return f.Severity != health.Info }))
	advice := grouped(keep(r.Findings, func(f health.Finding) bool { return f.Severity == health.Info }))
	if width >= wide {
		left := (width - 3) * 11 / 20
		right := width - 3 - left
		return beside(
			sections(shardsTable(r, left), nodesTable(r, left), controlPlane(r, left)),
			sections(findings("Findings", s, urgent, right), events(s, right, 20), findings("Advice", s, advice, right)),
			left, 3)
	}
	told := 1
	if size.Height >= tall {
		told = 3
	}
	top := urgent[:min(len(urgent), told)]
	rest := urgent[len(top):]
	first := findings("Findings", s, top, width)
	if len(rest) > 0 {
		first[0] = row(first[0], text(faint, fmt.Sprintf(" of %d, the others below", len(urgent))))
	}
	return sections(first, shardsTable(r, width), nodesTable(r, width), controlPlane(r, width),
		events(s, width, 8), findings("More findings", s, rest, width), findings("Advice", s, advice, width))
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
		{title: "SHARD"}, {title: "STATE", drop: 8}, {title: "SERVES", drop: 2}, {title: "EPOCH", right: true, drop: 4}, {title: "MODE", drop: 9},
		{title: "DOCUMENTS", right: true, drop: 3}, {title: "SIZE", right: true, drop: 7}, {title: "COPIES"},
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
		copies := copyCells(s)
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

// luxury is from which drop on a column gives way to having each shard on one line.
const luxury = 7

// sideBySide puts the copies of a shard on one line where there is room for all of them and the columns that are no luxury.
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
		if c.drop >= luxury {
			continue
		}
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
func copyCells(s health.ShardReport) []line {
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
		default:
			l = row(l, space(1), text(stateTone(c.State), string(c.State)), progress(c))
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
		if n.DiskUsed != nil && *n.DiskUsed > health.DiskWarnRatio {
			disk = graded(true, *n.DiskUsed > health.DiskCriticalRatio)
		}
		t.rows = append(t.rows, []line{
			text(plain, string(n.ID)), text(stateTone(n.State), string(n.State)), text(plain, string(n.Role)), text(disk, percent(n.DiskUsed)), text(plain, maybe(n.LastHeartbeat, span)),
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
	if len(c.Members) > 0 {
		up := keep(c.Members, func(m health.ControlMember) bool { return m.State != health.Down })
		facts = append(facts, row(text(graded(len(up) < len(c.Members), false), fmt.Sprintf("%d of %d", len(up), len(c.Members))), text(faint, " members up")))
	}
	for _, m := range c.Members {
		if m.State != health.Voter {
			facts = append(facts, row(text(plain, string(m.Node)+" "), memberState(m.State)))
		}
	}
	return append([]line{text(strong, "Control plane")}, flow(facts, 3, width)...)
}

func memberState(s string) line {
	if s == health.Down {
		return text(alarm, s)
	}
	return text(plain, s)
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

// group is all findings of one kind: a node that dies is one thing to understand, also where fifty shards lose a copy.
type group struct {
	health.Finding // the first
	subjects       []string
}

func grouped(list []health.Finding) []group {
	var out []group
	at := map[string]int{}
	for _, f := range list {
		kind := string(f.Code) + string(f.Severity)
		i, ok := at[kind]
		if !ok {
			i = len(out)
			at[kind] = i
			out = append(out, group{Finding: f})
		}
		out[i].subjects = append(out[i].subjects, f.Subject)
	}
	return out
}

// findings tells each kind with why it is and what to type; of several of a kind, those of the first.
func findings(title string, s Scene, list []group, width int) []line {
	if len(list) == 0 {
		return nil
	}
	out := []line{heading(title, len(list))}
	for _, g := range list {
		t, mark := severityLook(g.Severity)
		age := line(nil)
		if g.Since != nil {
			age = text(faint, "for "+seconds(max(0, s.Report.Time.Sub(*g.Since))))
		}
		why := g.Why
		if len(g.subjects) > 1 {
			why = g.Subject + ": " + why
		}
		out = append(out, ends(row(text(t, mark+" "), text(plain, g.Title), text(strong, about(g.subjects))), age, width))
		out = append(out, paragraph(faint, 2, why, width)...)
		out = append(out, command(g.Fix, width)...)
	}
	return out
}

const subjectsShown = 6

// about names what findings are about; nothing where that is the whole cluster.
func about(subjects []string) string {
	if subjects[0] == "cluster" || subjects[0] == "control" {
		return ""
	}
	names := strings.Join(subjects[:min(len(subjects), subjectsShown)], ", ")
	if more := len(subjects) - subjectsShown; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return ": " + names
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

// events are the newest lines of the audit trail, the newest first.
func events(s Scene, width, most int) []line {
	if len(s.Events) == 0 {
		return nil
	}
	t := table{columns: []column{{title: "UTC"}, {title: "OUTCOME", drop: 1}, {title: "ACTION"}, {title: "SUBJECT"}, {title: "WHY", least: 16}}}
	if width < narrow {
		t.columns[4].drop = 2
	}
	for _, e := range s.Events[:min(len(s.Events), most)] {
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
	return append([]line{heading("Newest events", len(s.Events))}, t.lines(width)...)
}

func cutWords(s string, width int) string { return text(plain, s).cut(width).String() }
