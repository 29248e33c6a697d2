package tui

import (
	"fmt"
	"strings"
)

var blocks = []rune("▁▂▃▄▅▆▇█")

// spark draws one character per value: none is nothing known, ▁ is 0, up to ▄ it is within the bar, and from ▅ on each step is
// four times as far past it.
func spark(values []int64, bar int64) line {
	var out line
	for _, v := range values {
		t, s := faint, " "
		if v >= 0 {
			level := sparkLevel(v, bar)
			s = string(blocks[level])
			switch {
			case level >= 6:
				t = alarm
			case level >= 4:
				t = caution
			}
		}
		if n := len(out); n > 0 && out[n-1].tone == t {
			out[n-1].text += s
		} else {
			out = append(out, piece{t, s})
		}
	}
	return out
}

func sparkLevel(v, bar int64) int {
	if v <= 0 {
		return 0
	}
	if v <= bar {
		return 1 + int((v-1)*3/bar)
	}
	level := 4
	for limit := 4 * bar; v > limit && level < len(blocks)-1; limit *= 4 {
		level++
	}
	return level
}

// chart draws values as a curve of braille dots, two steps to a character, with the bar as a dashed line. It is height lines high
// and width wide, axis included.
func chart(series func(n int) []int64, bar int64, width, height int) []line {
	const axis = 9
	columns, rows := width-axis, height-1
	if columns < 8 || rows < 2 {
		return nil
	}
	values := series(2 * columns)
	top := bar
	for _, v := range values {
		top = max(top, v)
	}
	top = roundUp(top + top/10)
	dots := plot(values, top, columns, rows)
	barRow := rows - 1 - int(bar*int64(4*rows-1)/top)/4
	out := make([]line, 0, height)
	for y, cells := range dots {
		label := ""
		switch y {
		case rows - 1:
			label = "0 ms"
		case 0:
			label = span(top)
		case barRow:
			label = span(bar)
		}
		l := text(faint, fmt.Sprintf("%*s ┤", axis-2, label))
		for _, c := range cells {
			switch {
			case c != 0:
				l = append(l, piece{curveTone(y, barRow), string(rune(0x2800 + int(c)))})
			case y == barRow && y != rows-1:
				l = append(l, piece{caution, "╌"})
			default:
				l = append(l, piece{plain, " "})
			}
		}
		out = append(out, merged(l))
	}
	ago := "5 min ago"
	return append(out, text(faint, strings.Repeat(" ", axis)+ago+strings.Repeat(" ", max(1, columns-len(ago)-len("now")))+"now").cut(width))
}

func curveTone(y, barRow int) tone {
	if y < barRow {
		return caution
	}
	return accent
}

// merged joins neighbours of one tone.
func merged(l line) line {
	var out line
	for _, p := range l {
		if n := len(out); n > 0 && out[n-1].tone == p.tone {
			out[n-1].text += p.text
		} else {
			out = append(out, p)
		}
	}
	return out
}

// plot sets the dots: values of the same run are joined, gaps stay open.
func plot(values []int64, top int64, columns, rows int) [][]uint8 {
	cells := make([][]uint8, rows)
	for y := range cells {
		cells[y] = make([]uint8, columns)
	}
	bits := [4][2]uint8{{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}} // of a braille cell, from the top
	last := -1
	for x, v := range values {
		if v < 0 {
			last = -1
			continue
		}
		y := 4*rows - 1 - int(v*int64(4*rows-1)/top)
		from, to := y, y
		if last >= 0 {
			from, to = min(last, y), max(last, y)
		}
		for d := from; d <= to; d++ {
			cells[d/4][x/2] |= bits[d%4][x%2]
		}
		last = y
	}
	return cells
}

// roundUp is the next of 10, 15, 20, 30, 40, 60, 80, 100, 150 …
func roundUp(n int64) int64 {
	for unit := int64(1); ; unit *= 10 {
		for _, m := range []int64{10, 15, 20, 30, 40, 60, 80} {
			if m*unit >= n {
				return m * unit
			}
		}
	}
}
