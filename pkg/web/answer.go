package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// An answer that is held in memory until it is taken goes out in pieces. Each must get through within stallTimeout, and what is
// written at once within as much and the time that it takes at leastRate.
const (
	pieceBytes = 64 << 10
	leastRate  = 8 << 10 // bytes a second
)

// answer is a ResponseWriter that knows whether it has begun, and gives up on a client that takes nothing.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	begun   bool
	broken  bool // the body of the request ended with an error
}

// watchedBody tells the answer how the body ended.
type watchedBody struct {
	io.ReadCloser
	answer *answer
}

func (b watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.answer.broken = true
	}
	return n, err
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (n int, err error) {
	a.begun = true
	all := time.Now().Add(stallTimeout + time.Duration(len(b))*time.Second/leastRate)
	for {
		piece, until := b[n:min(len(b), n+pieceBytes)], time.Now().Add(stallTimeout)
		if all.Before(until) {
			until = all
		}
		if err := a.control.SetWriteDeadline(until); err != nil {
			return n, fmt.Errorf("bound the time of an answer: %w", err)
		}
		m, err := a.ResponseWriter.Write(piece)
		_ = a.control.SetWriteDeadline(time.Time{}) // over HTTP/2 it would end the answer while a handler waits for something else
		if n += m; err != nil || n == len(b) {
			return n, err
		}
	}
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// guarded turns a panic of next into an answer and a line of the log.
func (s *server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w, control: http.NewResponseController(w)}
		err := s.serve(next, a, r)
		if err != nil && !a.begun {
			s.fail(a, err)
		} else if err != nil {
			_ = s.ours(err)             // into the log
			panic(http.ErrAbortHandler) // the client must not take the part for the whole
		}
		if r.ContentLength != 0 && !a.broken {
			_ = a.control.SetReadDeadline(time.Now().Add(lingerTimeout))
		}
		_ = a.control.SetWriteDeadline(time.Now().Add(stallTimeout)) // for what is still buffered
	})
}

// serve answers one request; a panic is its error.
func (s *server) serve(next http.Handler, a *answer, r *http.Request) (err error) {
	defer caught(&err)
	a.Header().Set("X-Content-Type-Options", "nosniff")
	if r.ContentLength != 0 && r.Method != http.MethodPut && r.Method != http.MethodPost { // a body that nobody will read
		_ = a.control.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
	r.Body = watchedBody{r.Body, a} // of the router's copy: at the body of its own request the server sees how much is left
	next.ServeHTTP(a, r)
	return nil
}

// panicError is a panic on its way to the log.
type panicError struct {
	fault any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprint(e.fault) }

// caught, deferred, turns a panic into an error: from other goroutines than the server's it would end the process.
// http.ErrAbortHandler stays the error it is.
func caught(err *error) {
	switch fault := recover(); {
	case fault == nil:
	case fault == any(http.ErrAbortHandler):
		*err = http.ErrAbortHandler
	default:
		*err = &panicError{fault, debug.Stack()}
	}
}

// fail answers with err.
func (s *server) fail(w http.ResponseWriter, err error) { s.failWith(w, err, 0) }

// failWith answers with err and a status that isn't its code's.
func (s *server) failWith(w http.ResponseWriter, err error, status int) {
	p := rpc.ProblemOf(s.ours(err), s.Cluster())
	if status != 0 {
		p.Status = status
	}
	h := w.Header()
	for _, name := range []string{"ETag", "X-Themis-Shard", "X-Themis-Session"} {
		delete(h, name) // of an answer that could not be encoded
	}
	h.Set("Content-Type", rpc.ProblemType)
	h.Set("Cache-Control", "no-store")
	writeBody(w, p.Status, append(p.JSON(), '\n'))
}

// ours is err as a server may tell it. A panic goes to the log; that nobody can be reached is for clients to say.
func (s *server) ours(err error) error {
	if p, ok := errors.AsType[*panicError](err); ok {
		s.log.Error("HTTP request panicked", "err", p, "stack", string(p.stack))
		return themis.Errorf(themis.Internal, "a fault of ours; the node's log tells more")
	}
	if e, ok := errors.AsType[*themis.Error](err); ok && e.Code == themis.Unreachable {
		return &themis.Error{Code: themis.NoPrimary, Detail: e.Detail, Shard: e.Shard, Fix: e.Fix, Err: err}
	}
	return err
}

// write asks for a write. Of one that may have been done the error is OUTCOME_UNKNOWN, whatever ended it.
func (s *server) write(ctx context.Context, req *nodev1.WriteRequest) (out *nodev1.WriteResponse, err error) {
	defer func() {
		if _, told := errors.AsType[*themis.Error](err); err == nil || told {
			return
		}
		err = themis.Errorf(themis.OutcomeUnknown, "the write ended without an answer: %w", s.ours(err))
	}()
	defer caught(&err)
	return s.Documents.Write(ctx, req)
}

func (s *server) writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.fail(w, fmt.Errorf("encode answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	writeBody(w, http.StatusOK, append(b, '\n'))
}

// writeBody sends a whole answer. A client that is gone gets nothing, and nobody else can be told.
func writeBody(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
