package rpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/status"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// ProblemType is the media type of a Problem (RFC 9457).
const ProblemType = "application/problem+json"

const (
	maxDetailBytes  = 1500 // metadata of a gRPC call should stay below 8 KiB in all
	maxProblemBytes = 64 << 10
	maxCodeBytes    = 64
)

// Problem is an error as HTTP bodies, the details of a gRPC status, `-o json` on stderr and WriteResponse.problem show it. Every field is
// always there; what isn't known is empty.
type Problem struct {
	Code      themis.Code    `json:"code"`
	Status    int            `json:"status"` // of HTTP
	Title     string         `json:"title"`  // the same for every error of the code
	Detail    string         `json:"detail"` // what happened and why
	Retryable bool           `json:"retryable"`
	Cluster   string         `json:"cluster"`
	Shard     themis.ShardID `json:"shard"`
	Fix       string         `json:"fix"` // the next command to type
}

// ProblemOf describes err, which is not nil. cluster is the name of the cluster that answers; a client that doesn't know
// it leaves it empty and gets the name that came with the error over gRPC, if it did.
func ProblemOf(err error, cluster string) Problem {
	e := asError(err, false)
	info := e.Code.Info()
	if cluster == "" {
		if r, ok := errors.AsType[*RemoteError](err); ok {
			cluster = r.Cluster
		}
	}
	return Problem{
		Code: e.Code, Status: info.Status, Title: info.Title, Detail: clip(e.Detail), Retryable: info.Retryable,
		Cluster: clip(cluster), Shard: themis.ShardID(clip(string(e.Shard))), Fix: clip(fixOf(e)),
	}
}

// message is the problem as it travels over gRPC.
func (p Problem) message() *nodev1.Problem {
	return &nodev1.Problem{
		Code: string(p.Code), Status: uint32(p.Status), Title: p.Title, Detail: p.Detail, Retryable: p.Retryable, //nolint:gosec // three digits
		Cluster: p.Cluster, Shard: string(p.Shard), Fix: p.Fix,
	}
}

// problemIn is what travelled.
func problemIn(m *nodev1.Problem) Problem {
	return Problem{
		Code: themis.Code(m.GetCode()), Status: int(m.GetStatus()), Title: m.GetTitle(), Detail: m.GetDetail(), Retryable: m.GetRetryable(),
		Cluster: m.GetCluster(), Shard: themis.ShardID(m.GetShard()), Fix: m.GetFix(),
	}
}

// ParseProblem reads what JSON wrote, also by a newer version: fields it doesn't know are passed over, and a code it doesn't
// know is kept and treated as INTERNAL.
func ParseProblem(b []byte) (Problem, error) {
	var p Problem
	if len(b) > maxProblemBytes {
		return p, fmt.Errorf("parse problem: %w: %d bytes, at most %d", themis.ErrMalformed, len(b), maxProblemBytes)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return Problem{}, fmt.Errorf("parse problem: %w: %w", themis.ErrMalformed, err)
	}
	if !codeShaped(p.Code) {
		return Problem{}, fmt.Errorf("parse problem: %w: code %.80q", themis.ErrMalformed, string(p.Code))
	}
	return p, nil
}

// JSON is the problem's one-line form.
func (p Problem) JSON() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("problem %+v: %v", p, err)) // strings, a number and a bool always encode
	}
	return b
}

// Err is the problem as the error that it was made of.
func (p Problem) Err() *themis.Error { return p.err(nil) }

// err leaves a fix that is only what the code's table says to the table: whoever hands the error on may know better.
func (p Problem) err(st *status.Status) *themis.Error {
	e := &themis.Error{Code: p.Code, Detail: p.Detail, Shard: p.Shard, Err: &RemoteError{Cluster: p.Cluster, Status: st}}
	if p.Fix != fixOf(e) {
		e.Fix = p.Fix
	}
	return e
}

// fixOf is the next command: the error's own, or its code's.
func fixOf(e *themis.Error) string {
	if e.Fix != "" {
		return e.Fix
	}
	next := e.Code.Info().Next
	if !strings.Contains(next, "{shard}") {
		return next
	}
	if e.Shard == "" {
		return "themis-cli cluster health"
	}
	return strings.ReplaceAll(next, "{shard}", string(e.Shard))
}

func codeShaped(c themis.Code) bool {
	return c != "" && len(c) <= maxCodeBytes && strings.Trim(string(c), "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == ""
}

// clip makes text fit into metadata: valid UTF-8, and not too long.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxDetailBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxDetailBytes-len("…")], "") + "…"
}
