package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/pkg/node"
)

// nodeRunCommand is themisd inside this binary, so that a playground needs nothing else. It minds signals by itself.
func nodeRunCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "node-run [FLAGS OF themisd]", Short: "Run a node in this process", Hidden: true, DisableFlagParsing: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { a.began = true; return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			a.answer(node.Main(context.WithoutCancel(cmd.Context()), "themis-cli node-run", args, os.Environ(), a.out, a.errOut))
			return nil
		},
	}
}
