package recording

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/themisdb/themis/pkg/health"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// Recording reads what a Ring wrote.
type Recording struct{ dir string }

// Open reads the recording in dir. NOT_FOUND: there is none.
func Open(dir string) (*Recording, error) {
	list, err := segments(dir)
	if err == nil && len(list) > 0 {
		return &Recording{dir: dir}, nil
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil, themis.Errorf(themis.NotFound, "%s holds no recording: a node keeps its own in the folder recording of its data directory", dir)
	}
	return nil, err
}

// Last is the last whole frame not after t, as it was sent. NOT_FOUND: there is none.
func (r *Recording) Last(ctx context.Context, t themis.HLC) (*nodev1.StateFrame, error) {
	list, err := segments(r.dir)
	if err != nil {
		return nil, err
	}
	for _, s := range slices.Backward(list) {
		if s.begins > t {
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		b, err := os.ReadFile(s.path)
		if errors.Is(err, os.ErrNotExist) {
			break // its turn to go came meanwhile, and that of all before it
		}
		if err != nil {
			return nil, err
		}
		if m := last(b, t); m != nil {
			return m, nil
		}
	}
	if len(list) == 0 {
		return nil, themis.Errorf(themis.NotFound, "nothing is recorded yet")
	}
	return nil, themis.Errorf(themis.NotFound, "nothing is recorded up to %s: the recording begins at %s", clock(t), clock(list[0].begins))
}

func clock(t themis.HLC) string { return t.Time().Format("2006-01-02T15:04:05.000Z07:00") }

// last is the last whole frame of b, a segment, not after t; nil: there is none.
func last(b []byte, t themis.HLC) *nodev1.StateFrame {
	list, _ := split(b)
	d := &decoder{}
	defer d.close()
	var found *nodev1.StateFrame
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].hlc > t {
			continue
		}
		if d.z == nil {
			var err error
			if found, err = d.frame(list[0]); err != nil {
				return nil
			}
			if i == 0 {
				return found
			}
		}
		if m, err := d.frame(list[i]); err == nil {
			return m
		}
	}
	return found
}

// At implements health.Source.
func (r *Recording) At(ctx context.Context, t themis.HLC) (health.Frame, error) {
	m, err := r.Last(ctx, t)
	if err != nil {
		return health.Frame{}, err
	}
	return Frame(m)
}

// Watch implements health.Source. A segment that can't be read to its end is yielded as an error, and the next one follows.
func (r *Recording) Watch(ctx context.Context, from themis.HLC) iter.Seq2[health.Frame, error] {
	return func(yield func(health.Frame, error) bool) {
		list, err := segments(r.dir)
		if err != nil {
			yield(health.Frame{}, err)
			return
		}
		for i, s := range list {
			if i+1 < len(list) && list[i+1].begins <= from {
				continue // all of it is older, or was written again
			}
			b, err := os.ReadFile(s.path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil && !yield(health.Frame{}, err) {
				return
			}
			for m, err := range frames(b, func(t themis.HLC) bool { return t > from }) {
				var f health.Frame
				if err == nil {
					f, err = Frame(m)
				}
				if err != nil {
					err = fmt.Errorf("%s: %w", filepath.Base(s.path), err)
				}
				if ctx.Err() != nil || !yield(f, err) {
					return
				}
			}
		}
	}
}

var _ health.Source = (*Recording)(nil)
