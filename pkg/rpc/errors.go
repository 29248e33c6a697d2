package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// grpcCodes says which gRPC code carries which of ours. Only the way there: several of ours share one, and the way back reads
// the details. Generic clients retry UNAVAILABLE, so that is for what surely had no effect, and OUTCOME_UNKNOWN is UNKNOWN.
var grpcCodes = map[themis.Code]codes.Code{
	themis.InvalidArgument:   codes.InvalidArgument,
	themis.Unauthenticated:   codes.Unauthenticated,
	themis.PermissionDenied:  codes.PermissionDenied,
	themis.NotFound:          codes.NotFound,
	themis.VersionMismatch:   codes.FailedPrecondition,
	themis.TooLarge:          codes.ResourceExhausted,
	themis.RefusedUnsafe:     codes.FailedPrecondition,
	themis.StalePlan:         codes.Aborted,
	themis.StaleRoute:        codes.Aborted,
	themis.RequestIDReused:   codes.AlreadyExists,
	themis.RateLimited:       codes.ResourceExhausted,
	themis.NoPrimary:         codes.Unavailable,
	themis.NotEnoughReplicas: codes.Unavailable,
	themis.Overloaded:        codes.ResourceExhausted,
	themis.ReadOnly:          codes.Unavailable,
	themis.Deadline:          codes.DeadlineExceeded,
	themis.OutcomeUnknown:    codes.Unknown,
	themis.Corrupt:           codes.DataLoss,
	themis.Internal:          codes.Internal,
	themis.Unimplemented:     codes.Unimplemented,
	themis.Unreachable:       codes.Unavailable,
}

// plainCodes reads a status that carries no Problem: it was made by gRPC itself, or by a server that isn't ours.
var plainCodes = map[codes.Code]themis.Code{
	codes.InvalidArgument:   themis.InvalidArgument,
	codes.Unauthenticated:   themis.Unauthenticated,
	codes.PermissionDenied:  themis.PermissionDenied,
	codes.NotFound:          themis.NotFound,
	codes.ResourceExhausted: themis.TooLarge, // gRPC's own are about message sizes
	codes.Unimplemented:     themis.Unimplemented,
	codes.DeadlineExceeded:  themis.Deadline,
	codes.Canceled:          themis.Deadline,
	codes.Unavailable:       themis.Unreachable,
}

// RemoteError is the cause of every *themis.Error that came from another process. errors.As finds it.
type RemoteError struct {
	Cluster string         // the name of the cluster that answered; empty: not known
	Status  *status.Status // nil: it did not come over gRPC
	Conn    error          // why there was no connection, if that is what failed
	Ctx     error          // context.Canceled or context.DeadlineExceeded, if the caller's context ended
}

func (e *RemoteError) Error() string {
	switch {
	case e.Conn != nil:
		return e.Conn.Error()
	case e.Status != nil:
		return e.Status.String()
	}
	return "the answer of another process"
}

// Unwrap is the connection's error and the context's.
func (e *RemoteError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Conn, e.Ctx} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// GRPCStatus lets status.FromError find the status.
func (e *RemoteError) GRPCStatus() *status.Status { return e.Status }

// Fate is how far a call got that failed without an answer of ours.
type Fate uint8

// The fates.
const (
	Lost    Fate = iota // sent, and then nothing that can be trusted: it may have been done
	NotSent             // nothing of the request left this process: surely not done
	Turned              // turned away before an answer began, by whoever it was: only where it was too large, or no such method, is it surely not done
)

// Call is what a caller knows about a call that failed.
type Call struct {
	Peer    string // who was asked, as in "node-2 (10.0.0.4:50051)"
	Method  string // full name
	Changes bool   // it would have changed something
	Fate    Fate
	Conn    error // why there is no connection, if that is known
	Ctx     error // of the call's context
}

// Error turns what a generated client returned into a *themis.Error. A Problem in the details is believed: the other side knew.
// Without one, a changing call that may have been done is OUTCOME_UNKNOWN, and nothing else ever is. Clients of a Pool get
// such errors already; this is for connections made elsewhere. nil stays nil, and so does an error that is one of ours.
func (c Call) Error(err error) error {
	if err == nil {
		return nil
	}
	st, over := status.FromError(err)
	if _, ours := errors.AsType[*themis.Error](err); ours {
		return err
	}
	if !over {
		st = status.FromContextError(err) // Unknown for every other error
	}
	if e := fromDetails(st); e != nil {
		return e
	}
	code := c.plain(st.Code())
	if code == themis.Unimplemented && strings.Contains(st.Message(), "unexpected content-type") { // another kind of server turned it away
		code = themis.Unreachable
		c.Conn = errors.New("something answers there, but not over gRPC: it may be the node's HTTP port")
	}
	e := &themis.Error{Code: code, Detail: c.detail(code, st), Err: &RemoteError{Status: st, Conn: c.Conn, Ctx: c.ended(st.Code())}}
	if refused, ok := errors.AsType[*pki.Refusal](c.Conn); ok && code == themis.Unauthenticated {
		e.Fix = refused.Err.Fix
	}
	return e
}

// ended is why the call was given up by its own side. A channel that is closed under a call says Canceled too, without a reason.
func (c Call) ended(code codes.Code) error {
	switch {
	case code == codes.DeadlineExceeded:
		return context.DeadlineExceeded
	case code == codes.Canceled:
		return c.Ctx
	}
	return nil
}

// plain finds the code of a status without details.
func (c Call) plain(code codes.Code) themis.Code {
	ours, ok := plainCodes[code]
	switch {
	case !ok:
		ours = themis.Internal
	case code == codes.Canceled && c.Ctx == nil:
		ours = themis.Unreachable
	}
	switch {
	case c.Changes && (c.Fate == Lost || c.Fate == Turned && ours != themis.TooLarge && ours != themis.Unimplemented):
		return themis.OutcomeUnknown
	case c.Fate == NotSent && unbelieved(c.Conn):
		return themis.Unauthenticated
	case c.Fate == NotSent && c.Conn != nil && ours == themis.Deadline:
		return themis.Unreachable
	}
	return ours
}

// unbelieved answers whether one side did not accept the other's certificate.
func unbelieved(conn error) bool { return remoteAlert(conn) || badCertificate(conn) }

func (c Call) detail(code themis.Code, st *status.Status) string {
	why, method := st.Message(), methodName(c.Method)
	if c.Conn != nil {
		why = c.Conn.Error()
	}
	switch {
	case code == themis.OutcomeUnknown:
		return fmt.Sprintf("%s: the request was sent to %s and no answer came back: %s", method, c.Peer, why)
	case code == themis.Unauthenticated && remoteAlert(c.Conn):
		return fmt.Sprintf("%s refused the certificate of this process, or that there is none: %s", c.Peer, why)
	case code == themis.Unauthenticated && badCertificate(c.Conn):
		return fmt.Sprintf("%s is not believed: %s", c.Peer, why)
	case code == themis.Unreachable && IsRefused(c.Conn):
		return fmt.Sprintf("%s refused the connection", c.Peer)
	case code == themis.Unreachable:
		return fmt.Sprintf("%s can't be reached: %s", c.Peer, why)
	case code == themis.Deadline:
		return fmt.Sprintf("%s: no answer of %s in time, nothing was changed: %s", method, c.Peer, why)
	case code == themis.TooLarge:
		return fmt.Sprintf("%s: the message is too large for %s: %s", method, c.Peer, why)
	}
	return fmt.Sprintf("%s at %s: %s", method, c.Peer, why)
}

// fromDetails finds the Problem in a status; nil where there is none.
func fromDetails(st *status.Status) *themis.Error {
	for _, d := range st.Details() {
		p, ok := d.(*nodev1.Problem)
		if !ok || !codeShaped(themis.Code(p.GetCode())) {
			continue
		}
		return problemIn(p).err(st)
	}
	return nil
}

// Status turns the error of a handler into what goes over the wire: the gRPC code, the detail as its message, and a Problem in
// its details. changes says whether the rpc changes anything: a context that ended under a handler that doesn't say what
// became of the change is OUTCOME_UNKNOWN. nil is OK.
func Status(err error, changes bool, cluster string) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	e := asError(err, changes)
	return statusOf(e, e.Detail, cluster)
}

// statusOf makes the status of e with a message that may be shorter than e's detail.
func statusOf(e *themis.Error, message, cluster string, more ...protoadapt.MessageV1) *status.Status {
	code, ok := grpcCodes[e.Code]
	if !ok {
		code = codes.Internal
	}
	st := status.New(code, clip(message))
	with, err := st.WithDetails(append([]protoadapt.MessageV1{ProblemOf(e, cluster).message()}, more...)...)
	if err != nil {
		panic(fmt.Sprintf("details of %s: %v", e.Code, err)) // only for the code OK, which no error has
	}
	return with
}

// asError finds the *themis.Error in err, or makes the one that says what an error of another kind means.
func asError(err error, changes bool) *themis.Error {
	if e, ok := errors.AsType[*themis.Error](err); ok {
		return e
	}
	st, over := status.FromError(err)
	if !over {
		st = status.FromContextError(err)
	}
	e := &themis.Error{Code: themis.Internal, Detail: err.Error(), Err: err}
	if over {
		e.Detail = st.Message()
	}
	if code, ok := plainCodes[st.Code()]; ok {
		e.Code = code
	}
	if changes && (e.Code == themis.Deadline || e.Code == themis.Unreachable) {
		e.Code = themis.OutcomeUnknown
	}
	return e
}
