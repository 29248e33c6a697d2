package tui

import (
	"strings"
	"unicode"

	"charm.land/lipgloss/v2"
)

// tone is what a piece of text means.
type tone uint8

const (
	plain tone = iota
	faint
	strong
	accent
	fine
	caution
	alarm

	loud tone = 1 << 6 // or-ed to one of them: the word of the screen that must be seen first
)

// piece is text of one tone.
type piece struct {
	tone tone
	text string
}

// line is one row of a screen. It is a value: the functions below make new ones.
type line []piece

// text is a line of one piece. Characters that don't print, and so could steer a terminal, become spaces.
func text(t tone, s string) line { return line{{t, printable(s)}} }

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// row puts lines behind each other.
func row(parts ...line) line {
	var out line
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func space(n int) line { return line{{plain, strings.Repeat(" ", max(0, n))}} }

func (l line) width() int {
	n := 0
	for _, p := range l {
		n += lipgloss.Width(p.text)
	}
	return n
}

// faded is the line as it looks when it is no longer the present.
func (l line) faded() line {
	out := make(line, len(l))
	for i, p := range l {
		out[i] = piece{faint, p.text}
	}
	return out
}

// cut shortens a line that is wider than width; … stands for what is gone.
func (l line) cut(width int) line {
	if l.width() <= width {
		return l
	}
	if width <= 0 {
		return nil
	}
	var out line
	left := width - 1
	for _, p := range l {
		head := prefix(p.text, left)
		out = append(out, piece{p.tone, head})
		left -= lipgloss.Width(head)
		if len(head) < len(p.text) {
			return append(out, piece{p.tone, "…"})
		}
	}
	return out
}

// prefix is the longest head of s that is at most width cells wide.
func prefix(s string, width int) string {
	n := 0
	for i, r := range s {
		if n += lipgloss.Width(string(r)); n > width {
			return s[:i]
		}
	}
	return s
}

// fill cuts or lengthens to exactly width.
func (l line) fill(width int) line {
	l = l.cut(width)
	return row(l, space(width-l.width()))
}

// String is the bare text, without spaces at its end.
func (l line) String() string {
	var b strings.Builder
	for _, p := range l {
		b.WriteString(p.text)
	}
	return strings.TrimRight(b.String(), " ")
}

// ends puts right at the window's right edge, and cuts left where they meet.
func ends(left, right line, width int) line {
	room := width - right.width() - 1
	if room < 1 {
		return left.cut(width)
	}
	return row(left.fill(room), space(1), right)
}

// folded breaks a text into lines of at most width cells, between words where it can.
func folded(s string, width int) []string {
	width = max(1, width)
	var out []string
	now := ""
	for _, word := range strings.Fields(printable(s)) {
		if now != "" && lipgloss.Width(now)+1+lipgloss.Width(word) <= width {
			now += " " + word
			continue
		}
		if now != "" {
			out = append(out, now)
		}
		for lipgloss.Width(word) > width {
			head := prefix(word, width)
			if head == "" {
				break
			}
			out = append(out, head)
			word = word[len(head):]
		}
		now = word
	}
	if now != "" {
		out = append(out, now)
	}
	return out
}

// paragraph is a wrapped text behind an indent.
func paragraph(t tone, indent int, s string, width int) []line {
	var out []line
	for _, w := range folded(s, width-indent) {
		out = append(out, row(space(indent), text(t, w)))
	}
	return out
}

// beside puts two columns next to each other.
func beside(left, right []line, leftWidth, gap int) []line {
	out := make([]line, max(len(left), len(right)))
	for i := range out {
		var l, r line
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			r = right[i]
		}
		out[i] = row(l.fill(leftWidth), space(gap), r)
	}
	return out
}
