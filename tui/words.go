package tui

import (
	"fmt"
	"strconv"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// unknown stands for what the report doesn't know.
const unknown = "?"

// number writes n with a comma between thousands.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	first := len(s) % 3
	if n < 0 {
		return "-" + number(-n)
	}
	out := s[:first]
	for i := first; i < len(s); i += 3 {
		if out != "" {
			out += ","
		}
		out += s[i : i+3]
	}
	return out
}

// size writes bytes with one digit behind the point: 0 B, 812 B, 1.5 KiB, 64.0 MiB.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[unit])
}

// span writes a duration: 820 ms, 4.2 s, 3 min 5 s, 2 h 10 min, 12 days.
func span(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", ms)
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// seconds writes an age in whole seconds, so that a screen that ticks doesn't flicker.
func seconds(d time.Duration) string {
	if d = d.Truncate(time.Second); d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return span(d.Milliseconds())
}

// maybe writes a number that may not be known.
func maybe[T ~int64 | ~uint64](n *T, write func(int64) string) string {
	if n == nil {
		return unknown
	}
	return write(int64(*n)) //nolint:gosec // counters stay far below 2^63
}

func percent(ratio *float64) string {
	if ratio == nil {
		return unknown
	}
	return fmt.Sprintf("%.0f %%", *ratio*100)
}

// or is s, or ? where it is empty.
func or(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if one == "copy" {
		return fmt.Sprintf("%d copies", n)
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// The marks, so that nothing is told by colour alone.
const (
	markGood    = "●"
	markWarn    = "▲"
	markBad     = "✖"
	markNote    = "·"
	markPrimary = "◆"
	markReplica = "○"
	markSpare   = "◇"
)

func statusLook(s health.Status) (tone, string) {
	switch s {
	case health.Healthy:
		return fine, markGood
	case health.Degraded:
		return caution, markWarn
	case health.Critical:
		return alarm, markBad
	}
	return faint, unknown
}

func severityLook(s health.Severity) (tone, string) {
	switch s {
	case health.CriticalSv:
		return alarm, markBad
	case health.Warning:
		return caution, markWarn
	}
	return faint, markNote
}

func shardLook(s health.ShardState) (tone, string) {
	switch s {
	case health.ShardOK:
		return fine, markGood
	case health.ShardDegraded:
		return caution, markWarn
	case health.ShardUnavailable:
		return alarm, markBad
	}
	return faint, unknown
}

// stateTone is the tone of a node's or a copy's state.
func stateTone(s cluster.State) tone {
	switch s {
	case cluster.Up, cluster.InSync, cluster.Active, cluster.Standby:
		return fine
	case cluster.Suspect, cluster.Draining, cluster.CatchingUp, cluster.Bootstrapping, cluster.Lagging, cluster.Recovery:
		return caution
	case cluster.FailedState, cluster.Blank:
		return alarm
	}
	return faint
}

func copyMark(c health.Copy) line {
	switch c {
	case health.Primary:
		return text(accent, markPrimary)
	case health.Spare:
		return text(faint, markSpare)
	}
	return text(plain, markReplica)
}

// over is caution where a lag is past the bar.
func over(lagMs *int64) tone {
	if lagMs != nil && *lagMs > health.LagWarn.Milliseconds() {
		return caution
	}
	return plain
}

func lsn(p *themis.LSN) string {
	if p == nil {
		return unknown
	}
	return p.String()
}
