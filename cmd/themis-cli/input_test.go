package main

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// TestInterruptedWhileItReads: what comes from stdin or from a pipe may never come, and a signal ends the wait.
func TestInterruptedWhileItReads(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo.ndjson")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"document":              {"doc", "put", "notes", "a"},
		"document from a pipe":  {"doc", "put", "notes", "a", "@" + fifo},
		"settings from a pipe":  {"config", "validate", fifo},
		"documents from a pipe": {"playground", "--data-dir", filepath.Join(t.TempDir(), "pg"), "--load", fifo},
		"secret":                {"node", "join", "--token", "-", "--endpoint", "127.0.0.1:1", "--ca-pin", "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "--id", "node-9"},
	} {
		t.Run(name, func(t *testing.T) {
			in, never := io.Pipe()
			defer never.Close() //nolint:errcheck // it always is
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan int, 1)
			var errOut bytes.Buffer
			go func() { ended <- run(ctx, args, in, io.Discard, &errOut) }()
			select {
			case code := <-ended:
				t.Fatalf("exit code %d without an input: %s", code, &errOut)
			case <-time.After(100 * time.Millisecond):
			}
			cancel()
			select {
			case code := <-ended:
				if code != themis.ExitInterrupted {
					t.Fatalf("exit code %d: %s", code, &errOut)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it goes on waiting")
			}
		})
	}
}

// TestLinesEndWithTheLoad: the same for documents.
func TestLinesEndWithTheLoad(t *testing.T) {
	in, out := io.Pipe()
	defer out.Close() //nolint:errcheck // it always is
	ctx, cancel := context.WithCancel(t.Context())
	src := &fileSource{path: "-", keyField: "_key", stdin: in}
	ended, seen := make(chan error, 1), make(chan string)
	go func() {
		ended <- src.each(ctx, func(i item) error { seen <- i.key; return i.err })
	}()
	if _, err := io.WriteString(out, "{\"_key\":\"a\"}\n"); err != nil {
		t.Fatal(err)
	}
	if key := <-seen; key != "a" {
		t.Fatal(key)
	}
	cancel()
	select {
	case err := <-ended:
		if err != context.Canceled { //nolint:errorlint // it is handed on as it is
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on waiting")
	}
}

// TestWhatEndedALoad: after the fault that ended a load, documents of which nothing is known have no fault of their own.
func TestWhatEndedALoad(t *testing.T) {
	l := &loader{}
	of := func(code themis.Code) error { return themis.Errorf(code, "why") }
	for _, c := range []struct {
		code        themis.Code
		ended, over bool
		faults      int64 // so far
		open        int64
	}{
		{themis.TooLarge, false, false, 1, 0},
		{themis.Deadline, false, true, 2, 0},
		{themis.Unreachable, true, true, 2, 1},
		{themis.OutcomeUnknown, true, true, 2, 2},
		{themis.Deadline, true, true, 2, 3},
		{themis.PermissionDenied, true, true, 3, 3},
		{themis.TooLarge, true, false, 4, 3},
	} {
		if over := l.failed(item{n: 1, key: "k"}, of(c.code), c.ended); over != c.over || l.out.Failed != c.faults || l.open != c.open {
			t.Errorf("%s, ended %v: over %v, %d failed, %d open", c.code, c.ended, over, l.out.Failed, l.open)
		}
	}
}

func TestShown(t *testing.T) {
	for key, want := range map[string]string{"a": "a", "ä b": "ä b", "a\nb": `"a\nb"`, "\x1b[2J": `"\x1b[2J"`, "\u009b2J": `"\u009b2J"`, `"q"`: `"\"q\""`, "\u202ea": `"\u202ea"`} {
		if got := shown(key); got != want {
			t.Errorf("%q is shown as %s, want %s", key, got, want)
		}
	}
}
