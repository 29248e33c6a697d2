package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
)

func contextCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "context", Short: "The clusters that this user knows"}, contextList(a), contextUse(a))
}

// absolute makes the context's paths mean the same from every directory.
func absolute(c client.Context) client.Context {
	for _, p := range []*string{&c.CA, &c.Cert, &c.Key} {
		if full, err := filepath.Abs(*p); err == nil {
			*p = full
		}
	}
	return c
}

// contextAnswer is one entry of the JSON of `context list`.
type contextAnswer struct {
	Name    string `json:"name"`
	Current bool   `json:"current"`
	client.Context
}

func contextList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the contexts; the current one is marked", Args: usage.None,
		RunE: func(*cobra.Command, []string) error {
			dir, err := client.UserContexts()
			if err != nil {
				return err
			}
			names, err := dir.List()
			if err != nil {
				return err
			}
			current, err := dir.Current()
			if err != nil {
				return err
			}
			out := []contextAnswer{}
			for _, n := range names {
				c, err := dir.Load(n)
				if err != nil {
					return err
				}
				out = append(out, contextAnswer{n, n == current, c})
			}
			return a.print(out, func(w io.Writer, _ bool) {
				var rows [][]string
				for _, c := range out {
					mark := ""
					if c.Current {
						mark = "*"
					}
					rows = append(rows, []string{c.Name + mark, c.Cluster, strings.Join(c.Endpoints, ",")})
				}
				columns(w, "CONTEXT CLUSTER ENDPOINTS", rows)
			})
		},
	}
}

func contextUse(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Args: usage.Exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := client.UserContexts()
			if err != nil {
				return err
			}
			if err := dir.Use(args[0]); err != nil {
				return err
			}
			return a.print(map[string]string{"current": args[0]}, func(w io.Writer, _ bool) {
				_, _ = fmt.Fprintf(w, "current context: %s\n", args[0])
			})
		},
	}
}
