package tui

import "slices"

// column is one column of a table.
type column struct {
	title string
	right bool // numbers
	drop  int  // where the window is narrow the highest goes first; 0: it stays
	least int  // of the last column: no other is dropped to give it more than this; 0: all it needs
}

// table is rows of cells under their titles. A cell that is empty in every row takes no room beyond its title.
type table struct {
	columns []column
	rows    [][]line
}

const columnGap = 2

// lines draws the table no wider than width: columns that may go are dropped, then the last one is cut.
func (t table) lines(width int) []line {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = len(c.title)
		for _, r := range t.rows {
			widths[i] = max(widths[i], r[i].width())
		}
	}
	keep := t.fitting(widths, width)
	titles := make([]line, len(t.columns))
	for i, c := range t.columns {
		titles[i] = text(faint, c.title)
	}
	out := make([]line, 0, 1+len(t.rows))
	for _, r := range append([][]line{titles}, t.rows...) {
		var l line
		for n, i := range keep {
			cell := r[i]
			if t.columns[i].right {
				cell = row(space(widths[i]-cell.width()), cell)
			}
			if n < len(keep)-1 {
				cell = row(cell.fill(widths[i]), space(columnGap))
			}
			l = row(l, cell)
		}
		out = append(out, l.cut(width))
	}
	return out
}

// fitting are the columns that have room.
func (t table) fitting(widths []int, width int) []int {
	var keep []int
	total := -columnGap
	for i := range t.columns {
		keep = append(keep, i)
		total += widths[i] + columnGap
	}
	if n := len(t.columns) - 1; t.columns[n].least > 0 {
		total -= max(0, widths[n]-t.columns[n].least)
	}
	for total > width {
		worst := -1
		for n, i := range keep {
			if d := t.columns[i].drop; d > 0 && (worst < 0 || d > t.columns[keep[worst]].drop) {
				worst = n
			}
		}
		if worst < 0 {
			break
		}
		total -= widths[keep[worst]] + columnGap
		keep = append(keep[:worst:worst], keep[worst+1:]...)
	}
	return keep
}

// without is the table less one column.
func (t table) without(column int) table {
	out := table{columns: slices.Delete(slices.Clone(t.columns), column, column+1)}
	for _, r := range t.rows {
		out.rows = append(out.rows, slices.Delete(slices.Clone(r), column, column+1))
	}
	return out
}
