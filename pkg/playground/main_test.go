package playground

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/themisdb/themis/pkg/node"
)

// TestMain lets the playgrounds of the tests run this binary as their nodes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "node-run" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := node.Main(ctx, "themisd", os.Args[2:], os.Environ(), os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}
