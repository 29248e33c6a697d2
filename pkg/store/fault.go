package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/themisdb/themis/pkg/themis"
)

// failed turns an error of Pebble into ours and remembers it when the store can't be trusted with more.
func (s *Store) failed(what string, err error) error {
	if e, ok := errors.AsType[*themis.Error](err); ok && e.Code == themis.Corrupt {
		return s.setFault(e)
	}
	if pebble.IsCorruptionError(err) || errors.Is(err, themis.ErrMalformed) {
		return s.damaged(what, err)
	}
	return s.setFault(themis.Errorf(themis.ReadOnly, "store %s: %s: %w", s.dir, what, err).Do("check the disk, then restart the node"))
}

func (s *Store) damaged(what string, err error) error {
	return s.setFault(themis.Errorf(themis.Corrupt, "store %s: %s: %w", s.dir, what, pebbleError{err}).Do("themisdb-repl-doctor check"))
}

// pebbleError says what Pebble says to people; an internal mark of it is left out.
type pebbleError struct{ error }

func (e pebbleError) Error() string {
	return strings.ReplaceAll(e.error.Error(), "\n<corruption detail carrier>", "")
}

func (e pebbleError) Unwrap() error { return e.error }

// setFault keeps the first fault and returns e.
func (s *Store) setFault(e *themis.Error) *themis.Error {
	if s.fault.CompareAndSwap(nil, e) {
		close(s.faulty)
		s.log.Error("store takes no more entries", "dir", s.dir, "err", e)
	}
	return e
}

func (s *Store) backgroundError(err error)                  { _ = s.failed("write in the background", err) }
func (s *Store) dataCorruption(i pebble.DataCorruptionInfo) { _ = s.damaged("read "+i.Path, i.Details) }

// pebbleLog passes on what Pebble reports. Its ordinary chatter is for debugging only.
type pebbleLog struct{ s *Store }

func (l pebbleLog) Infof(format string, args ...any) {
	l.s.log.Debug("pebble", "detail", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.s.log.Warn("pebble", "detail", fmt.Sprintf(format, args...))
}

// Fatalf is how Pebble reports a manifest that could not be written or synced, and broken rules of its own. The first is a
// disk that failed: a fault of this store, not the end of the node and its other shards. The second ends the process.
func (l pebbleLog) Fatalf(format string, args ...any) {
	detail := fmt.Sprintf(format, args...)
	if !strings.HasPrefix(detail, "MANIFEST ") {
		panic("pebble: " + detail)
	}
	cause := errors.New(detail)
	for _, a := range args {
		if err, ok := a.(error); ok {
			cause = err
		}
	}
	_ = l.s.failed("write the manifest", cause)
}
