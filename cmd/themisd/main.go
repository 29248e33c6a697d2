// Command themisd is one node of a ThemisDB cluster: router, shard replicas and, where it is told so, the control plane.
package main

import (
	"context"
	"os"

	"github.com/themisdb/themis/pkg/node"
)

func main() {
	os.Exit(node.Main(context.Background(), "themisd", os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
