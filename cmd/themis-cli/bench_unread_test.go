package main

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// A connection that breaks, as that to a killed node does, does not end a benchmark; a pipe that nobody reads does.
func TestUntilUnread(t *testing.T) {
	ctx, stop := untilUnread(t.Context())
	defer stop()
	for range 20 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGPIPE); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
			t.Fatal("a broken connection ended it")
		case <-time.After(5 * time.Millisecond):
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if unread(w) {
		t.Fatal("a pipe that is read")
	}
	if err := r.Close(); err != nil || !unread(w) {
		t.Fatalf("a pipe that nobody reads: %v", err)
	}
}
