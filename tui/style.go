// Package tui draws the state of a cluster for people: every screen is a pure function of a health.Report, so the same report
// gives the same picture, and CLI, terminal dashboard and web show the same facts with the same words.
//
// Nothing here reads a clock, a terminal or the network: size and Style come in by the door. Widths are columns of a terminal;
// emoji take two.
package tui

import (
	"fmt"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
)

// Style says what the terminal can show. The zero value is plain ASCII without colour.
type Style struct {
	Unicode bool // box drawing and the marks ✅ ❌ ⚠️
	Color   bool
	All     bool // every shard, also where there are many
}

// mark is one of the three signs.
type mark int

const (
	good mark = iota
	poor
	bad
)

func (s Style) mark(m mark) string {
	if s.Unicode {
		return [...]string{"✅", "⚠️", "❌"}[m]
	}
	return [...]string{"[ok]", "[!!]", "[xx]"}[m]
}

func (s Style) paint(m mark, text string) string {
	if !s.Color {
		return text
	}
	return [...]string{"\x1b[1;32m", "\x1b[1;33m", "\x1b[1;31m"}[m] + text + "\x1b[0m"
}

// frame is the characters of a box.
type frame struct{ h, v, topLeft, topRight, left, right, bottomLeft, bottomRight string }

func (s Style) frame() frame {
	if s.Unicode {
		return frame{"─", "│", "┌", "┐", "├", "┤", "└", "┘"}
	}
	return frame{"-", "|", "+", "+", "+", "+", "+", "+"}
}

// rule is the line of a box's body that draws a line across it.
const rule = "\x00rule"

const (
	boxInside = 48 // columns between the sides, unless a line needs more
	boxAtMost = 118
)

// box draws lines in a frame that is at most width columns wide (0: as wide as it needs to be, up to 120). A line that is too long is cut.
func (s Style) box(lines []string, width int) string {
	most := boxAtMost
	if width > 0 {
		most = max(width-2, 10)
	}
	inside := min(boxInside, most)
	for _, l := range lines {
		if l != rule {
			inside = max(inside, min(lipgloss.Width(l)+2, most))
		}
	}
	f := s.frame()
	var b strings.Builder
	across := func(left, right string) { fmt.Fprintf(&b, "%s%s%s\n", left, strings.Repeat(f.h, inside), right) }
	across(f.topLeft, f.topRight)
	for _, l := range lines {
		if l == rule {
			across(f.left, f.right)
			continue
		}
		l = s.cut(l, inside-2)
		fmt.Fprintf(&b, "%s %s%s%s\n", f.v, l, strings.Repeat(" ", inside-1-lipgloss.Width(l)), f.v)
	}
	across(f.bottomLeft, f.bottomRight)
	return b.String()
}

// cut shortens plain text to so many columns and marks the place. Painted text is short and left as it is.
func (s Style) cut(text string, columns int) string {
	if lipgloss.Width(text) <= columns {
		return text
	}
	more := "~"
	if s.Unicode {
		more = "…"
	}
	r := []rune(text)
	for len(r) > 0 && lipgloss.Width(string(r))+1 > columns {
		r = r[:len(r)-1]
	}
	return string(r) + more
}

// clock is a duration as 00:00:42; a day and more counts on in hours.
func clock(d time.Duration) string {
	n := max(0, int(d.Round(time.Second).Seconds()))
	return fmt.Sprintf("%02d:%02d:%02d", n/3600, n/60%60, n%60)
}
