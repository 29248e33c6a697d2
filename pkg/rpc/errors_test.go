package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// Every code of the contract survives the wire with all that it carries.
func TestStatusRoundTrip(t *testing.T) {
	for _, info := range themis.Codes() {
		for _, changes := range []bool{false, true} {
			sent := themis.Errorf(info.Code, "detail of %s", info.Code).In("shard-3").Do("themis-cli cluster events")
			st := Status(fmt.Errorf("outer: %w", sent), changes, "demo")
			if st.Code() == codes.OK || st.Message() != sent.Detail {
				t.Errorf("%s: status %s", info.Code, st)
			}
			// The fate is of no account where the other side said what happened.
			got := Call{Peer: "node-2", Method: "/a/B", Changes: changes, Fate: Lost}.Error(st.Err())
			e, ok := errors.AsType[*themis.Error](got)
			if !ok || e.Code != sent.Code || e.Detail != sent.Detail || e.Shard != sent.Shard || e.Fix != sent.Fix {
				t.Errorf("%s, changes %t: got %#v", info.Code, changes, got)
			}
			if p := ProblemOf(got, ""); p.Cluster != "demo" || p.Retryable != info.Retryable || p.Status != info.Status {
				t.Errorf("%s: problem %+v", info.Code, p)
			}
			if again, ok := status.FromError(got); !ok || again.Code() != st.Code() {
				t.Errorf("%s: status of the received error is %v", info.Code, again)
			}
		}
	}
}

// The details of a status are the object that HTTP answers with, whole: clients in other languages have no table of codes.
func TestTheSameProblemOverGRPCAndHTTP(t *testing.T) {
	for _, info := range themis.Codes() {
		for _, sent := range []*themis.Error{
			themis.Errorf(info.Code, "without a shard"),
			themis.Errorf(info.Code, "with one").In("shard-3"),
			themis.Errorf(info.Code, "with a fix of its own").In("shard-3").Do("themis-cli cluster events"),
			themis.Errorf(info.Code, "%s", strings.Repeat("long ", 1000)),
		} {
			details := Status(sent, true, "demo").Details()
			if len(details) != 1 {
				t.Fatalf("%s: details %v", info.Code, details)
			}
			m, ok := details[0].(*nodev1.Problem)
			if want := ProblemOf(sent, "demo"); !ok || problemIn(m) != want {
				t.Errorf("%s: over gRPC %v, over HTTP %s", info.Code, details[0], want.JSON())
			}
		}
	}
}

// A fix that is only the table's is left to whoever hands the error on and knows the shard, or what the user typed.
func TestTheTablesFixIsNotTheErrorsOwn(t *testing.T) {
	sent := themis.Errorf(themis.NoPrimary, "the leader is gone")
	for way, got := range map[string]error{
		"status":  Call{}.Error(Status(sent, false, "demo").Err()),
		"problem": ProblemOf(sent, "demo").Err(),
	} {
		if e, ok := errors.AsType[*themis.Error](got); !ok || e.Fix != "" {
			t.Errorf("%s: %#v", way, got)
		}
	}
}

func TestCodesAreComplete(t *testing.T) {
	for _, info := range themis.Codes() {
		if _, ok := grpcCodes[info.Code]; !ok {
			t.Errorf("%s has no gRPC code", info.Code)
		}
	}
	for _, retried := range []themis.Code{themis.OutcomeUnknown, themis.Internal, themis.Corrupt} {
		if grpcCodes[retried] == codes.Unavailable {
			t.Errorf("%s is UNAVAILABLE: generic clients would repeat a change that may have been done", retried)
		}
	}
}

func TestUnknownCodeOfANewerServer(t *testing.T) {
	st := Status(themis.Errorf("TOO_STRANGE", "from the future"), true, "")
	if st.Code() != codes.Internal {
		t.Errorf("status %s", st)
	}
	if got := themis.CodeOf(Call{}.Error(st.Err())); got != "TOO_STRANGE" {
		t.Errorf("code %s", got)
	}
	st = Status(themis.Errorf("no code", "nonsense"), false, "")
	if got := themis.CodeOf(Call{Fate: Turned}.Error(st.Err())); got != themis.Internal {
		t.Errorf("code %s", got)
	}
}

// What a status without details means depends on how far the call got and on whether it would have changed something.
func TestPlainErrors(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}
	for _, tc := range []struct {
		name string
		call Call
		code codes.Code
		want themis.Code
	}{
		{"no connection", Call{Changes: true, Fate: NotSent}, codes.Unavailable, themis.Unreachable},
		{"no connection, reading", Call{Fate: NotSent}, codes.Unavailable, themis.Unreachable},
		{"time ran out before it was sent", Call{Changes: true, Fate: NotSent}, codes.DeadlineExceeded, themis.Deadline},
		{"time ran out while nobody answered the dialling", Call{Changes: true, Fate: NotSent, Conn: refused}, codes.DeadlineExceeded, themis.Unreachable},
		{"given up before it was sent", Call{Changes: true, Fate: NotSent, Ctx: context.Canceled}, codes.Canceled, themis.Deadline},
		{"the channel was closed", Call{Changes: true, Fate: NotSent}, codes.Canceled, themis.Unreachable},
		{"our message is too large", Call{Changes: true, Fate: NotSent}, codes.ResourceExhausted, themis.TooLarge},
		{"our certificate was refused", Call{Changes: true, Fate: NotSent, Conn: alert}, codes.Unavailable, themis.Unauthenticated},
		{"turned away as too large", Call{Changes: true, Fate: Turned}, codes.ResourceExhausted, themis.TooLarge},
		{"turned away as unknown", Call{Changes: true, Fate: Turned}, codes.Unimplemented, themis.Unimplemented},
		{"turned away by who knows whom", Call{Changes: true, Fate: Turned}, codes.Unavailable, themis.OutcomeUnknown},
		{"too late, says the other side", Call{Changes: true, Fate: Turned}, codes.DeadlineExceeded, themis.OutcomeUnknown},
		{"broken below our code", Call{Changes: true, Fate: Turned}, codes.Internal, themis.OutcomeUnknown},
		{"the connection broke", Call{Changes: true, Fate: Lost}, codes.Unavailable, themis.OutcomeUnknown},
		{"the answer is too large", Call{Changes: true, Fate: Lost}, codes.ResourceExhausted, themis.OutcomeUnknown},
		{"no answer in time", Call{Changes: true, Fate: Lost}, codes.DeadlineExceeded, themis.OutcomeUnknown},
		{"given up", Call{Changes: true, Fate: Lost, Ctx: context.Canceled}, codes.Canceled, themis.OutcomeUnknown},
		{"the connection broke, reading", Call{Fate: Lost}, codes.Unavailable, themis.Unreachable},
		{"no answer in time, reading", Call{Fate: Lost}, codes.DeadlineExceeded, themis.Deadline},
		{"the answer is too large, reading", Call{Fate: Lost}, codes.ResourceExhausted, themis.TooLarge},
		{"something else, reading", Call{Fate: Lost}, codes.DataLoss, themis.Internal},
	} {
		err := tc.call.Error(status.Error(tc.code, "plain"))
		if got := themis.CodeOf(err); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		if tc.call.Conn == error(refused) && !IsRefused(err) {
			t.Errorf("%s: not known as refused", tc.name)
		}
		if tc.call.Ctx != nil && !errors.Is(err, tc.call.Ctx) {
			t.Errorf("%s: the context's error is lost", tc.name)
		}
	}
}

func TestErrorsThatStay(t *testing.T) {
	if err := (Call{}).Error(nil); err != nil {
		t.Errorf("nil became %v", err)
	}
	ours := fmt.Errorf("outer: %w", themis.Errorf(themis.NoPrimary, "x"))
	if err := (Call{Changes: true}).Error(ours); !errors.Is(err, ours) {
		t.Errorf("ours became %v", err)
	}
	if got := themis.CodeOf(Call{Changes: true}.Error(context.DeadlineExceeded)); got != themis.OutcomeUnknown {
		t.Errorf("a bare context error after sending: %s", got)
	}
	if got := themis.CodeOf(Call{}.Error(io.ErrUnexpectedEOF)); got != themis.Internal {
		t.Errorf("an error of no kind: %s", got)
	}
}

// What handlers return that is none of ours.
func TestHandlerErrors(t *testing.T) {
	for _, tc := range []struct {
		err     error
		changes bool
		want    themis.Code
	}{
		{errors.New("disk on fire"), true, themis.Internal},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), false, themis.Deadline},
		{fmt.Errorf("write: %w", context.DeadlineExceeded), true, themis.OutcomeUnknown},
		{fmt.Errorf("write: %w", context.Canceled), true, themis.OutcomeUnknown},
		{status.Error(codes.Unimplemented, "method Act not implemented"), true, themis.Unimplemented},
		{status.Error(codes.ResourceExhausted, "larger than max"), true, themis.TooLarge},
		{status.Error(codes.Unavailable, "gone"), true, themis.OutcomeUnknown},
		{status.Error(codes.DataLoss, "x"), false, themis.Internal},
	} {
		if got := themis.CodeOf(Call{}.Error(Status(tc.err, tc.changes, "").Err())); got != tc.want {
			t.Errorf("%v, changes %t: %s, want %s", tc.err, tc.changes, got, tc.want)
		}
	}
	if st := Status(nil, true, ""); st.Code() != codes.OK {
		t.Errorf("nil: %s", st)
	}
}

func TestProblem(t *testing.T) {
	err := themis.Errorf(themis.NotEnoughReplicas, "1 of 2 replicas answers").In("shard-3")
	got := string(ProblemOf(err, "demo").JSON())
	const want = `{"code":"NOT_ENOUGH_REPLICAS","status":503,"title":"Too few in-sync replicas to accept writes","detail":"1 of 2 replicas answers",` +
		`"retryable":true,"cluster":"demo","shard":"shard-3","fix":"themis-cli shard show shard-3"}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if fix := ProblemOf(themis.Errorf(themis.NoPrimary, "none"), "").Fix; fix != "themis-cli cluster health" {
		t.Errorf("without a shard: fix %q", fix)
	}
	for _, info := range themis.Codes() {
		sent := themis.Errorf(info.Code, "d").In("shard-1").Do("f")
		p, err := ParseProblem(ProblemOf(sent, "demo").JSON())
		if err != nil {
			t.Fatal(err)
		}
		back := p.Err()
		if back.Code != sent.Code || back.Detail != sent.Detail || back.Shard != sent.Shard || back.Fix != sent.Fix {
			t.Errorf("%s: %+v", info.Code, back)
		}
		if again := ProblemOf(back, ""); again != p {
			t.Errorf("%s: %+v, then %+v", info.Code, p, again)
		}
	}
}

func TestLongDetailsAreCut(t *testing.T) {
	long := strings.Repeat("ü", 10_000) + "\xff"
	for name, got := range map[string]string{
		"problem": ProblemOf(themis.Errorf(themis.Internal, "%s", long), "").Detail,
		"status":  Status(themis.Errorf(themis.Internal, "%s", long).Do("%s", long), false, long).Message(),
	} {
		if len(got) > maxDetailBytes || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
			t.Errorf("%s: %d bytes, valid %t", name, len(got), utf8.ValidString(got))
		}
	}
}

func TestParseProblemRefuses(t *testing.T) {
	for _, bad := range []string{"", "{", "[]", `{"detail":"no code"}`, `{"code":"lower"}`, `{"code":"` + strings.Repeat("A", 65) + `"}`,
		`{"code":"NO_PRIMARY","detail":"` + strings.Repeat("a", maxProblemBytes) + `"}`} {
		if p, err := ParseProblem([]byte(bad)); !errors.Is(err, themis.ErrMalformed) || p != (Problem{}) {
			t.Errorf("%.60s: %+v, %v", bad, p, err)
		}
	}
	if p, err := ParseProblem([]byte(`{"code":"NO_PRIMARY","since":"1.9"}`)); err != nil || p.Code != themis.NoPrimary {
		t.Errorf("a field of a later version: %+v, %v", p, err)
	}
}

func FuzzParseProblem(f *testing.F) {
	f.Add(ProblemOf(themis.Errorf(themis.NoPrimary, "none"), "demo").JSON())
	f.Add([]byte(`{"code":"X"}`))
	f.Add([]byte(`{"code":"x y"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProblem(b)
		if err != nil {
			if !errors.Is(err, themis.ErrMalformed) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		again, err := ParseProblem(p.JSON())
		if err != nil || again != p {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}
