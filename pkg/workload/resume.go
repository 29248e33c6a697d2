package workload

// WindowRows is how far ahead of the first row that is not stored a load may send: rows that are there and rows that are not may be
// mixed over that many, and no more. Every load has the same, so the next one can rely on it.
const WindowRows = 4096

// Window keeps a load's rows, numbered from 0 in the order in which they are sent, within WindowRows of the first that is not stored.
type Window struct {
	low  int64          // the first that is not stored
	done map[int64]bool // stored, above low; fewer than WindowRows
}

// NewWindow is the window of a load that begins.
func NewWindow() *Window { return &Window{done: map[int64]bool{}} }

// Room answers whether row n may be sent now.
func (w *Window) Room(n int64) bool { return n < w.low+WindowRows }

// Done notes that row n is stored.
func (w *Window) Done(n int64) {
	w.done[n] = true
	for w.done[w.low] {
		delete(w.done, w.low)
		w.low++
	}
}

// Frontier finds where a load of so many rows goes on, with about two questions for each doubling of what is there: all rows below
// from are stored; of those from there up to seen some may be; the row seen is not. It is right for rows that were sent through a
// Window, and stays right over any number of loads that broke off. Rows that were removed since are not noticed.
func Frontier(rows int64, has func(row int64) (bool, error)) (from, seen int64, err error) {
	there, missing := int64(-1), rows // there is stored; missing isn't, or is behind the end
	for step := int64(1); there+1 < missing; {
		probe := min(there+step, missing-1)
		ok, err := has(probe)
		if err != nil {
			return 0, 0, err
		}
		if !ok {
			missing = probe
			break
		}
		there, step = probe, step*2
	}
	for there+1 < missing {
		probe := there + (missing-there)/2
		ok, err := has(probe)
		if err != nil {
			return 0, 0, err
		}
		if ok {
			there = probe
		} else {
			missing = probe
		}
	}
	seen = there + 1
	return max(0, seen-WindowRows), seen, nil
}
