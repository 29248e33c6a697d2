// Command themisdb-repl-doctor examines a ThemisDB cluster and the files of its nodes: what is wrong, why it probably is, and what
// to type next. It changes nothing.
//
// stdout is for the answer, stderr for everything else. Exit codes: 0 nothing wrong, 1 findings at the bar or past it, 2 wrong usage,
// 3 something could not be looked at and nothing worse was found, 4 not permitted, 5 no endpoint answers, 9 time ran out, 70 a fault of
// ours, 130 interrupted. docs/reference/doctor.md describes the answers.
package main

import (
	"context"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }
