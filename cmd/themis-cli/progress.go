package main

import (
	"fmt"
	"sync"
	"time"
)

// progressed is how far something is, in words for people and in keys and values for logs.
type progressed interface {
	text() string
	fields() string
}

// progress shows on stderr how far something is: on a terminal one line that is written anew, else a line of keys and values every two
// seconds. The function that it returns ends it.
func (a *app) progress(look func(now time.Time) progressed) (end func()) {
	if a.flags.quiet {
		return func() {}
	}
	tty := terminal(a.errOut)
	every := 2 * time.Second
	if tty {
		every = 200 * time.Millisecond
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				if tty {
					_, _ = fmt.Fprint(a.errOut, "\r\x1b[K")
				}
				return
			case now := <-tick.C:
				if s := look(now); tty {
					_, _ = fmt.Fprintf(a.errOut, "\r\x1b[K%s", s.text())
				} else {
					_, _ = fmt.Fprintln(a.errOut, s.fields())
				}
			}
		}
	})
	return func() { close(stop); wg.Wait() }
}

// step is how far a load is at one moment.
type step struct {
	doing  string
	done   int64
	failed int64
	ratio  float64 // of the source that was read; below 0: not known
	took   time.Duration
}

// step is where the load stands now.
func (l *loader) step(now time.Time) progressed {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := step{doing: l.doing, done: l.out.Written, failed: l.out.Failed, ratio: -1}
	if l.out.Verified != nil {
		s.done, s.failed = *l.out.Verified, *l.out.Different
	}
	if l.src != nil {
		if done, whole := l.src.read(); whole > 0 {
			s.ratio = float64(done) / float64(whole)
		}
	}
	if s.doing == "" {
		s.doing = "reading"
	} else {
		s.took = now.Sub(l.began)
	}
	return s
}

func (s step) rate() float64 { return float64(s.done) / max(s.took.Seconds(), 0.001) }

// left is how long the rest takes at the pace so far; false: not known yet.
func (s step) left() (time.Duration, bool) {
	if s.ratio <= 0 || s.took < time.Second {
		return 0, false
	}
	return time.Duration(float64(s.took) * (1 - min(s.ratio, 1)) / s.ratio), true
}

// text has a bar, where the end is known.
func (s step) text() string {
	out := fmt.Sprintf("%d %s, %d failed, %.0f a second", s.done, s.doing, s.failed, s.rate())
	if s.ratio < 0 {
		return out
	}
	if left, ok := s.left(); ok {
		out += ", ETA " + clock(left)
	}
	return bar(s.ratio) + " " + out
}

// bar draws a share of twenty cells.
func bar(ratio float64) string {
	const cells = 20
	full := min(cells, max(0, int(ratio*cells)))
	b := make([]byte, cells)
	for i := range b {
		b[i] = '.'
		if i < full {
			b[i] = '#'
		}
	}
	return fmt.Sprintf("[%s] %3.0f%%", b, ratio*100)
}

// clock is a time as hours, minutes and seconds.
func clock(d time.Duration) string {
	s := int64(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

// fields is the step for logs.
func (s step) fields() string {
	out := fmt.Sprintf("%s=%d failed=%d rate=%.0f elapsed_ms=%d", s.doing, s.done, s.failed, s.rate(), s.took.Milliseconds())
	if s.ratio >= 0 {
		out += fmt.Sprintf(" percent=%.1f", s.ratio*100)
	}
	if left, ok := s.left(); ok {
		out += fmt.Sprintf(" eta_ms=%d", left.Milliseconds())
	}
	return out
}
