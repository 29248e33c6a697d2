// Command themis-cli is how operators, scripts and pipelines talk to a ThemisDB cluster.
//
// stdout is for the answer, stderr for everything else. Exit codes are those of docs/reference/cli.md: 0 fine, 1 failed or the
// answer is bad, 2 wrong usage, 3 inconclusive, 4 not permitted, 5 unreachable, 6 stale plan, 7 partly done, 8 refused for safety,
// 9 gave up waiting, 10 changes pending, 70 a fault of ours, 130 interrupted.
package main

import (
	"context"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
