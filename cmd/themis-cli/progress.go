package main

import (
	"fmt"
	"sync"
	"time"
)

// progress shows on stderr how far a load is: on a terminal one line that is written anew, else a line of keys and values every few
// seconds. The function that it returns ends it.
func (a *app) progress(l *loader) (end func()) {
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
	began := time.Now()
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
				l.mu.Lock()
				s := l.step(now.Sub(began))
				l.mu.Unlock()
				if tty {
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
	ratio  float64 // of the file that was read; below 0: not known
	took   time.Duration
}

// step is taken under the lock.
func (l *loader) step(took time.Duration) step {
	s := step{doing: l.doing, done: l.out.Written, failed: l.out.Failed, ratio: -1, took: took}
	if l.out.Verified != nil {
		s.done, s.failed = *l.out.Verified, *l.out.Different
	}
	if l.size > 0 {
		s.ratio = float64(l.read) / float64(l.size)
	}
	if s.doing == "" {
		s.doing = "reading"
	}
	return s
}

func (s step) rate() float64 { return float64(s.done) / max(s.took.Seconds(), 0.001) }

// text is the step for people: a bar, where the end is known.
func (s step) text() string {
	out := fmt.Sprintf("%d %s, %d failed, %.0f a second", s.done, s.doing, s.failed, s.rate())
	if s.ratio < 0 {
		return out
	}
	const cells = 20
	full := min(cells, max(0, int(s.ratio*cells)))
	bar := make([]byte, cells)
	for i := range bar {
		bar[i] = '.'
		if i < full {
			bar[i] = '#'
		}
	}
	return fmt.Sprintf("[%s] %3.0f%% %s", bar, s.ratio*100, out)
}

// fields is the step for logs.
func (s step) fields() string {
	out := fmt.Sprintf("%s=%d failed=%d rate=%.0f elapsed_ms=%d", s.doing, s.done, s.failed, s.rate(), s.took.Milliseconds())
	if s.ratio >= 0 {
		out += fmt.Sprintf(" percent=%.1f", s.ratio*100)
	}
	return out
}
