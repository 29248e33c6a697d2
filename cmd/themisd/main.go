// Command themisd is one node of a ThemisDB cluster: router, shard replicas and, where it is told so, the control plane.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/themisdb/themis/pkg/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := node.Main(ctx, "themisd", os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
