package tui

import (
	"fmt"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// shardsShown is how many shards the box lists one by one; of more, only those that are not OK.
const shardsShown = 24

// HealthBox draws the report as the box that `cluster health` shows, at most width columns wide (0: as wide as it needs to be).
func HealthBox(r health.Report, width int, o Style) string {
	lines := []string{"CLUSTER HEALTH: " + o.paint(statusMark(r.Status), string(r.Status)), rule}
	fine := 0
	for _, s := range r.Shards {
		if len(r.Shards) > shardsShown && !o.All && s.State == health.ShardOK {
			fine++
			continue
		}
		lines = append(lines, shardLines(r, s, o)...)
		lines = append(lines, "")
	}
	if fine > 0 {
		lines = append(lines, fmt.Sprintf("%s %d shards OK", o.mark(good), fine), "")
	}
	lines = append(lines, rebuildLines(r, o)...)
	lines = append(lines, controlLines(r, o)...)
	for len(lines) > 2 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return o.box(lines, width)
}

func statusMark(s health.Status) mark {
	switch s {
	case health.Healthy:
		return good
	case health.Degraded:
		return poor
	}
	return bad
}

// shardLines is one line for each copy, the primary first.
func shardLines(r health.Report, s health.ShardReport, o Style) []string {
	label := "Shard " + strings.TrimPrefix(string(s.ID), "shard-") + ": "
	indent := strings.Repeat(" ", lipgloss.Width(label))
	var out []string
	add := func(text string) {
		if len(out) == 0 {
			out = append(out, label+text)
			return
		}
		out = append(out, indent+text)
	}
	if s.Primary == "" {
		add(fmt.Sprintf("PRIMARY %s none", o.mark(bad)))
	}
	for _, c := range s.Replicas {
		if rebuilding(c) {
			continue // it has its own lines below
		}
		m, note := copyNote(r, s, c)
		text := fmt.Sprintf("%-7s %s %s", c.Role, o.mark(m), c.Node)
		if note != "" {
			text += " (" + note + ")"
		}
		add(text)
	}
	if s.Want != nil {
		add(fmt.Sprintf("%s changing to %s, %d copies, %d in sync", o.mark(poor), s.Want.Mode, s.Want.RF, s.Want.K+1))
	}
	return out
}

// copyNote is the mark of a copy and what stands in brackets behind it.
func copyNote(r health.Report, s health.ShardReport, c health.ReplicaReport) (mark, string) {
	switch c.State {
	case cluster.FailedState:
		return bad, withClock("DEAD", r.Time, c.Since)
	case cluster.Blank:
		return bad, withClock("BLANK", r.Time, c.Since)
	case cluster.Lagging:
		if c.LagEntries != nil {
			return poor, fmt.Sprintf("LAGGING - %d entries", *c.LagEntries)
		}
		return poor, "LAGGING"
	case cluster.InSync, cluster.Standby, cluster.Active:
	default:
		return poor, string(c.State)
	}
	if c.Node == s.Primary {
		switch {
		case s.Readable == nil && c.AgeMs != nil && *c.AgeMs >= health.QuietFor.Milliseconds():
			return poor, fmt.Sprintf("not heard for %.1f s", float64(*c.AgeMs)/1000)
		case s.Readable != nil && !*s.Readable:
			return bad, "serves nothing"
		case s.Writable != nil && !*s.Writable:
			return poor, "takes no writes"
		case c.Node == r.Control.Controller: // who decides for the cluster; the leader of etcd means nothing to a shard
			return good, "Leader"
		}
	}
	return good, ""
}

func withClock(word string, now time.Time, since *time.Time) string {
	if since == nil {
		return word
	}
	return word + " - " + clock(now.Sub(*since))
}

// rebuilding answers whether a copy is only being made.
func rebuilding(c health.ReplicaReport) bool { return c.Rebuild != nil || c.Joining }

type rebuild struct {
	shard themis.ShardID
	copy  health.ReplicaReport
}

func rebuildLines(r health.Report, o Style) []string {
	var all []rebuild
	for _, s := range r.Shards {
		for _, c := range s.Replicas {
			if rebuilding(c) {
				all = append(all, rebuild{s.ID, c})
			}
		}
	}
	var out []string
	for _, x := range all {
		of := ""
		if len(all) > 1 {
			of = " of " + string(x.shard)
		}
		text := fmt.Sprintf("%s Rebuilding Replica%s on %s...", o.mark(poor), of, x.copy.Node)
		progress := x.copy.Rebuild
		if progress == nil {
			progress = &health.Rebuild{}
		}
		if p := progress.Percent; p != nil {
			text += fmt.Sprintf(" (%d%%)", int(*p))
		}
		out = append(out, text)
		if eta := progress.ETAMs; eta != nil {
			out = append(out, "ETA: "+clock(time.Duration(*eta)*time.Millisecond))
		}
	}
	return out
}

func controlLines(r health.Report, o Style) []string {
	up := 0
	for _, m := range r.Control.Members {
		if m.State == "voter" {
			up++
		}
	}
	switch {
	case r.Control.Quorum == nil && up > 0:
		return []string{fmt.Sprintf("%s Control plane: electing a leader", o.mark(poor))}
	case r.Control.Quorum == nil:
		return []string{fmt.Sprintf("%s Control plane: no member answers", o.mark(poor))}
	case !*r.Control.Quorum:
		return []string{fmt.Sprintf("%s Control plane: no quorum, %d of %d members", o.mark(bad), up, len(r.Control.Members))}
	}
	return nil
}

// Findings lists what an operator should know and type, the worst first, in lines of at most width columns (0: 100). Advice is left
// out unless o.All.
func Findings(r health.Report, width int, o Style) string {
	if width <= 0 {
		width = 100
	}
	var b strings.Builder
	for _, f := range r.Findings {
		m := poor
		switch {
		case f.Severity == health.Info && !o.All:
			continue
		case f.Severity == health.Info:
			m = good
		case f.Severity == health.CriticalSv:
			m = bad
		}
		head := fmt.Sprintf("%s %s %s", o.mark(m), f.Code, f.Subject)
		if f.Since != nil {
			head += " for " + clock(r.Time.Sub(*f.Since))
		}
		b.WriteString(head + "\n")
		wrap(&b, "   why:  ", f.Why, width)
		if f.Fix != "" {
			b.WriteString("   next: " + f.Fix + "\n") // a command is copied whole
		}
	}
	return b.String()
}

// wrap writes text in lines that begin below each other.
func wrap(b *strings.Builder, label, text string, width int) {
	indent := strings.Repeat(" ", lipgloss.Width(label))
	line := label
	for _, word := range strings.Fields(text) {
		if lipgloss.Width(line)+1+lipgloss.Width(word) > width && strings.TrimSpace(line) != strings.TrimSpace(label) {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent
		}
		if !strings.HasSuffix(line, " ") {
			line += " "
		}
		line += word
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}
