package themis

import (
	"errors"
	"fmt"
	"slices"
)

// Code names an error that others act on. HTTP status, exit code and retry advice come from the one table below.
type Code string

// The codes of the contract.
const (
	InvalidArgument   Code = "INVALID_ARGUMENT"
	Unauthenticated   Code = "UNAUTHENTICATED"
	PermissionDenied  Code = "PERMISSION_DENIED"
	NotFound          Code = "NOT_FOUND"
	VersionMismatch   Code = "VERSION_MISMATCH"
	TooLarge          Code = "TOO_LARGE"
	RefusedUnsafe     Code = "REFUSED_UNSAFE"
	StalePlan         Code = "STALE_PLAN"
	StaleRoute        Code = "STALE_ROUTE"
	RequestIDReused   Code = "REQUEST_ID_REUSED"
	RateLimited       Code = "RATE_LIMITED"
	NoPrimary         Code = "NO_PRIMARY"
	NotEnoughReplicas Code = "NOT_ENOUGH_REPLICAS"
	Overloaded        Code = "OVERLOADED"
	ReadOnly          Code = "READ_ONLY"
	Deadline          Code = "DEADLINE"        // surely not done
	OutcomeUnknown    Code = "OUTCOME_UNKNOWN" // may have been done
	Corrupt           Code = "CORRUPT"
	Internal          Code = "INTERNAL"
	Unimplemented     Code = "UNIMPLEMENTED"
	Unreachable       Code = "UNREACHABLE" // no endpoint answers; made by clients, never sent by a server
)

// The exit codes of every binary.
const (
	ExitOK           = 0
	ExitFailed       = 1
	ExitUsage        = 2
	ExitInconclusive = 3
	ExitDenied       = 4
	ExitUnreachable  = 5
	ExitStalePlan    = 6
	ExitPartly       = 7
	ExitRefused      = 8
	ExitGaveUp       = 9
	ExitPending      = 10
	ExitBug          = 70
	ExitInterrupted  = 130
)

// CodeInfo is what a code means to the different faces.
type CodeInfo struct {
	Code      Code
	Status    int // of HTTP
	Exit      int
	Retryable bool
	Title     string
	Next      string // what to do when the error itself doesn't say
}

var codes = []CodeInfo{
	{InvalidArgument, 400, ExitUsage, false, "The request is not valid", "correct the field that the detail names"},
	{Unauthenticated, 401, ExitDenied, false, "No valid identity was presented", "present a certificate of this cluster's CA: --cacert, --cert, --key"},
	{PermissionDenied, 403, ExitDenied, false, "That is not permitted", "themis-cli pki show CERT"},
	{NotFound, 404, ExitFailed, false, "There is no such thing", ""},
	{VersionMismatch, 412, ExitFailed, false, "The document is not at the version that was asked for", "read the document and decide again"},
	{TooLarge, 413, ExitFailed, false, "The request is too large", "a document is at most 16 MiB"},
	{RefusedUnsafe, 409, ExitRefused, false, "Refused: it would not be safe", ""},
	{StalePlan, 409, ExitStalePlan, false, "The world has changed since the plan was made", "make the plan again"},
	{StaleRoute, 421, ExitFailed, true, "The routing table that was used is old", "nothing: clients refresh their table and ask again"},
	{RequestIDReused, 422, ExitFailed, false, "The idempotency key was used for another request", "use a fresh Idempotency-Key"},
	{RateLimited, 429, ExitFailed, true, "Too many requests", "wait and ask again"},
	{NoPrimary, 503, ExitFailed, true, "The shard has no primary", "themis-cli shard show {shard}"},
	{NotEnoughReplicas, 503, ExitFailed, true, "Too few in-sync replicas to accept writes", "themis-cli shard show {shard}"},
	{Overloaded, 503, ExitFailed, true, "A queue is full", "wait and ask again"},
	{ReadOnly, 503, ExitFailed, true, "The shard takes no writes", "themis-cli cluster health"},
	{Deadline, 504, ExitGaveUp, true, "Time ran out before anything was done", "ask again, or raise timeout_ms"},
	{OutcomeUnknown, 504, ExitFailed, false, "It is not known whether the write was done", "read the document before writing again, or repeat the request with the same Idempotency-Key"},
	{Corrupt, 500, ExitFailed, false, "Stored data is damaged", "themisdb-repl-doctor check"},
	{Internal, 500, ExitBug, false, "A fault of ours", "please report it with the node's log"},
	{Unimplemented, 501, ExitFailed, false, "This version can't do that", "see docs/status.md"},
	{Unreachable, 502, ExitUnreachable, true, "No endpoint answers", "check the addresses, and whether the nodes run"},
}

// Codes is the table of all codes, in the contract's order.
func Codes() []CodeInfo { return slices.Clone(codes) }

// Info is the code's row; for a code that isn't in the table, that of INTERNAL.
func (c Code) Info() CodeInfo {
	for _, i := range codes {
		if i.Code == c {
			return i
		}
	}
	return Internal.Info()
}

// Error is an error that others act on. Detail says what happened and why, Fix is the next command to type.
type Error struct {
	Code   Code
	Detail string
	Shard  ShardID
	Fix    string
	Err    error // the cause, if there is one
}

// Errorf makes an Error; %w keeps the cause, several keep them all.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Code: code, Detail: err.Error(), Err: errors.Unwrap(err)}
	if _, several := err.(interface{ Unwrap() []error }); several {
		e.Err = err
	}
	return e
}

// In names the shard and returns e.
func (e *Error) In(shard ShardID) *Error { e.Shard = shard; return e }

// Do sets the next command and returns e.
func (e *Error) Do(format string, args ...any) *Error { e.Fix = fmt.Sprintf(format, args...); return e }

func (e *Error) Error() string { return e.Detail }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf finds the outermost Error in err's chain. nil has no code; an error without one is INTERNAL.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// Exit is the exit code for err.
func Exit(err error) int {
	if err == nil {
		return ExitOK
	}
	return CodeOf(err).Info().Exit
}
