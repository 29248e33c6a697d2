package main

import (
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/node"
)

// versionAnswer is the JSON of `version`.
type versionAnswer struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this binary", Args: usage.None,
		RunE: func(*cobra.Command, []string) error {
			v := versionAnswer{node.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH}
			return a.print(v, func(w io.Writer, _ bool) {
				pairs(w, "themis-cli", v.Version, "go", v.Go, "platform", v.OS+"/"+v.Arch)
			})
		},
	}
}
