package tui

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

type event = cluster.Event

func compareEvents(a, b event) int { return cmp.Or(cmp.Compare(a.HLC, b.HLC), cmp.Compare(a.ID, b.ID)) }

// everything asks for the events from the beginning; a source sends the newest of them.
const everything themis.HLC = 1

// Options are the terminal that Run draws on.
type Options struct {
	In    io.Reader
	Out   io.Writer
	Env   []string // as os.Environ gives it: TERM, NO_COLOR, …; nil: the process' own
	ASCII bool     // the terminal shows no other characters

	more []tea.ProgramOption // of tests
}

// Run shows the screens until the user leaves or ctx ends; then the error is ctx's cause. The terminal is as before when it returns.
func Run(ctx context.Context, src health.Source, o Options) error {
	watch, stop := context.WithCancel(ctx)
	defer stop()
	options := append([]tea.ProgramOption{tea.WithContext(ctx), tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithoutSignalHandler()}, o.more...)
	if o.Env != nil {
		options = append(options, tea.WithEnvironment(o.Env))
	}
	p := tea.NewProgram(newModel(o.ASCII, time.Now()), options...)
	var wg sync.WaitGroup
	wg.Go(func() {
		for frame, err := range src.Watch(watch, everything) {
			p.Send(news{frame, err, time.Now()}) // returns at once when the program has ended
		}
	})
	_, err := p.Run()
	stop()
	wg.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && !errors.Is(err, tea.ErrInterrupted):
		return fmt.Errorf("terminal: %w", err)
	}
	return nil
}
