package tui

import (
	"fmt"
	"strings"

	"github.com/themisdb/themis/pkg/health"
)

// Size is a window in cells.
type Size struct{ Width, Height int }

// screen is one of the views.
type screen int

const (
	overviewScreen screen = iota
	replicationScreen
	screens
)

var screenNames = [screens]string{"Overview", "Replication"}

// look is what the keys have chosen.
type look struct {
	screen   screen
	top      [screens + 1]int // first line of the body that is shown, for each screen and the help
	selected int              // row of the replication screen
	help     bool
	filter   string
	typing   bool // the filter is being written
}

// page is what is shown: a screen, or the help behind them.
func (l look) page() screen {
	if l.help {
		return screens
	}
	return l.screen
}

const (
	leastWidth  = 20
	leastHeight = 6
	chartLeast  = 7
	chartMost   = 18
)

// layout is a window cut into its parts.
type layout struct {
	head, body, foot []line
	room             int // lines for the body
}

// lay makes the parts of a window. body may be longer than its room.
func lay(s Scene, l look, size Size) layout {
	out := layout{head: append([]line{titleLine(s, l, size.Width)}, verdict(s, size.Width)...)}
	if s.Known && size.Height >= 16 {
		g := gaugeLine(s.Report, size.Width)
		if !s.live() {
			g = g.faded()
		}
		out.head = append(out.head, g)
	}
	if size.Height >= 12 {
		out.head = append(out.head, text(faint, strings.Repeat("─", size.Width)))
	}
	shown := s.matching(l.filter)
	out.room = size.Height - len(out.head) - 1
	switch {
	case l.help:
		out.body = helpLines(size.Width)
	case l.screen == replicationScreen:
		out.body = replication(shown, l.selected, size.Width)
		if left := out.room - min(len(out.body)+1, out.room-chartLeast-1); left >= chartLeast && out.room >= 2*chartLeast {
			if c := lagChart(shown, l.selected, size.Width, min(left-1, chartMost)); len(c) > 0 {
				out.foot = append([]line{nil}, c...)
				out.room -= len(out.foot)
			}
		}
	default:
		out.body = overview(shown, size)
	}
	return out
}

// clamp keeps scroll and selection inside what there is.
func (l look) clamp(s Scene, size Size) look {
	l.selected = max(0, min(l.selected, len(copiesOf(s.matching(l.filter).Report))-1))
	if size.Width < leastWidth || size.Height < leastHeight {
		return l
	}
	parts := lay(s, l, size)
	most := max(0, len(parts.body)-parts.room)
	top := l.top[l.page()]
	if l.screen == replicationScreen && !l.help {
		const before = 2 // heading and titles
		if at := l.selected + before; at >= top+parts.room {
			top = at - parts.room + 1
		} else if l.selected < top {
			top = l.selected
		}
	}
	l.top[l.page()] = max(0, min(top, most))
	return l
}

// draw is the whole window: exactly as many lines as it is high, none wider than it is wide.
func draw(s Scene, l look, size Size) []line {
	if size.Width < leastWidth || size.Height < leastHeight {
		return tiny(s, size)
	}
	parts := lay(s, l, size)
	top := max(0, min(l.top[l.page()], len(parts.body)-parts.room))
	end := min(len(parts.body), top+parts.room)
	if s.Known && !s.live() && !l.help {
		fade(parts.body)
		fade(parts.foot)
	}
	out := append(parts.head[:len(parts.head):len(parts.head)], parts.body[top:end]...)
	out = append(out, parts.foot...)
	for len(out) < size.Height-1 {
		out = append(out, nil)
	}
	more := ""
	if len(parts.body) > parts.room {
		more = fmt.Sprintf("%d–%d of %d", top+1, end, len(parts.body))
	}
	out = append(out, footLine(l, more, size.Width))
	for i := range out {
		out[i] = out[i].cut(size.Width)
	}
	return out[:size.Height]
}

func fade(lines []line) {
	for i, l := range lines {
		lines[i] = l.faded()
	}
}

// tiny is what a window shows that is too small for a screen.
func tiny(s Scene, size Size) []line {
	out := make([]line, max(0, size.Height))
	if len(out) == 0 {
		return out
	}
	if out[0] = text(caution, "too small"); s.Known {
		t, mark := statusLook(s.Report.Status)
		if !s.live() {
			t, mark = alarm, unknown
		}
		out[0] = text(t, mark+" "+string(s.Report.Status))
	}
	out[0] = out[0].cut(size.Width)
	return out
}

func titleLine(s Scene, l look, width int) line {
	var tabs line
	for i, name := range screenNames {
		if screen(i) == l.screen && !l.help {
			tabs = row(tabs, text(accent, fmt.Sprintf("[%d %s]", i+1, name)))
		} else {
			tabs = row(tabs, text(faint, fmt.Sprintf(" %d %s ", i+1, name)))
		}
	}
	name := s.Report.Cluster
	if name == "" {
		name = "ThemisDB"
	}
	right := text(faint, "not connected")
	if s.Known {
		right = text(faint, s.Report.Time.UTC().Format("15:04:05")+" UTC")
	}
	left := row(text(strong, name), space(2), tabs)
	if left.width()+1+right.width() > width {
		right = nil
	}
	return ends(left, right, width)
}

func footLine(l look, more string, width int) line {
	if l.typing {
		return row(text(accent, "/"+l.filter), text(faint, "▏ enter keeps it, esc drops it"))
	}
	var left line
	if l.filter != "" {
		left = row(text(accent, "/"+l.filter), text(faint, " (esc drops it)  "))
	}
	for _, k := range footKeys {
		if l := row(left, text(plain, k.key), text(faint, " "+k.does+"  ")); l.width()+len(more) <= width {
			left = l
		}
	}
	return ends(left, text(faint, more), width)
}

// Still is the scene of a single frame.
func Still(f health.Frame) Scene { return Scene{}.with(f, nil) }

// Plain is the scene as text for pipes and files: everything on both screens, in lines of at most width cells (0: 120). ascii keeps
// to the characters that every terminal has.
func Plain(s Scene, width int, ascii bool) string {
	if width <= 0 {
		width = 120
	}
	s.History = nil // a picture has no past
	name := row(text(strong, or(s.Report.Cluster)), space(2), text(faint, s.Report.Time.UTC().Format("2006-01-02 15:04:05")+" UTC"))
	out := sections(append(append([]line{name.cut(width)}, verdict(s, width)...), gaugeLine(s.Report, width)), overview(s, Size{min(width, wide-1), tall}), replication(s, -1, width))
	if ascii {
		out = toASCII(out)
	}
	return bare(out)
}

var asciiMarks = map[rune]rune{
	'●': '*', '▲': '!', '✖': 'x', '·': '.', '◆': '#', '○': 'o', '◇': '+', '›': '>', '…': '~', '─': '-', '–': '-', '╌': '-', '┤': '|', '→': '>', '▏': '_',
	'▁': '_', '▂': '.', '▃': ':', '▄': '-', '▅': '=', '▆': '+', '▇': '%', '█': '@', '↑': '^', '↓': 'v',
}

// toASCII writes every character as one that all terminals have.
func toASCII(lines []line) []line {
	out := make([]line, len(lines))
	for i, l := range lines {
		for _, p := range l {
			out[i] = append(out[i], piece{p.tone, strings.Map(func(r rune) rune {
				switch c, ok := asciiMarks[r]; {
				case r < 128:
					return r
				case ok:
					return c
				case r >= 0x2800 && r < 0x2900:
					return '*'
				}
				return '?'
			}, p.text)})
		}
	}
	return out
}
