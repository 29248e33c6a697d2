package main

import (
	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
)

// complain writes an error to stderr.
func (a *app) complain(cmd *cobra.Command, err error) {
	usage.Complain(a.errOut, cmd, err, a.flags.output == "json" || a.flags.output == "ndjson")
}
