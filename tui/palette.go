package tui

import (
	"strings"

	"charm.land/lipgloss/v2"
)

// palette is the look of every tone on one kind of background. Terminals with fewer colours, and NO_COLOR, are served by the
// renderer, which takes away what they can't show.
type palette map[tone]lipgloss.Style

// paletteFor has at least 4.5 : 1 of contrast on white and on #1e1e1e.
func paletteFor(dark bool) palette {
	pick := lipgloss.LightDark(dark)
	in := func(light, onDark string) lipgloss.Style {
		return lipgloss.NewStyle().Foreground(pick(lipgloss.Color(light), lipgloss.Color(onDark)))
	}
	return palette{
		faint:   in("#5c6670", "#9aa4ae"),
		strong:  lipgloss.NewStyle().Bold(true),
		accent:  in("#0550ae", "#79b8ff").Bold(true),
		fine:    in("#116329", "#6fdd8b"),
		caution: in("#7d4e00", "#f2cc60"),
		alarm:   in("#b3121d", "#ff8e86").Bold(true),
	}
}

// paint is the lines as a terminal understands them.
func (p palette) paint(lines []line) string {
	var b strings.Builder
	for i, l := range lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		for _, piece := range l {
			if s, ok := p.style(piece.tone); ok && strings.TrimSpace(piece.text) != "" {
				b.WriteString(s.Render(piece.text))
			} else {
				b.WriteString(piece.text)
			}
		}
	}
	return b.String()
}

func (p palette) style(t tone) (lipgloss.Style, bool) {
	s, ok := p[t&^loud]
	if t&loud != 0 {
		return s.Bold(true), true
	}
	return s, ok
}

// bare is the lines as text.
func bare(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.String())
		b.WriteByte('\n')
	}
	return b.String()
}
