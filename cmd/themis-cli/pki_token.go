package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/pki"
)

// bearerAnswer is the JSON of `pki token`.
type bearerAnswer struct {
	Token        string    `json:"token"`
	Holder       string    `json:"holder"`
	Cluster      string    `json:"cluster"`
	Capabilities []string  `json:"capabilities"`
	NotAfter     time.Time `json:"not_after"`
}

func pkiToken(a *app) *cobra.Command {
	var valid time.Duration
	cmd := &cobra.Command{
		Use: "token", Short: "Sign a bearer token for the HTTP API",
		Long: `Sign a bearer token with the key of the certificate that would be shown (--cert, --key, --cacert, or those of the context), and print it. It
is for HTTP clients that can't show the certificate themselves: a request with the header "Authorization: Bearer TOKEN" may do what that
certificate allows, until the token ends. No node is asked. Whoever has the token can use it: keep it as you would keep the key.`,
		Example: `  curl --cacert ca.crt -H "Authorization: Bearer $(themis-cli pki token --valid 10m)" https://node-1:8765/cluster/health`,
		Args:    usage.None,
		RunE: func(*cobra.Command, []string) error {
			if valid < time.Second || valid > pki.MaxBearer {
				return usage.Wrong("--valid %s: want 1s to %s", valid, pki.MaxBearer)
			}
			files := pki.Files{CA: a.flags.ca, Cert: a.flags.cert, Key: a.flags.key}
			if files.CA == "" || files.Cert == "" || files.Key == "" {
				t, err := a.target()
				if err != nil {
					return err
				}
				files = t.Files()
			}
			s, err := pki.Open(files, pki.Options{})
			if err != nil {
				return onDisk(err)
			}
			out := bearerAnswer{Holder: s.Info().Name(), Cluster: s.Info().Cluster, Capabilities: s.Info().Capabilities}
			if out.Token, out.NotAfter, err = s.NewBearer(valid); err != nil {
				return err
			}
			return a.print(out, func(w io.Writer, _ bool) {
				_, _ = fmt.Fprintln(w, out.Token)
				a.say("# for %s of cluster %s, who may %s, until %s", out.Holder, out.Cluster, strings.Join(out.Capabilities, ", "), out.NotAfter.Format(time.RFC3339))
			})
		},
	}
	cmd.Flags().DurationVar(&valid, "valid", time.Hour, "how long the token is good, 24h at most; it ends with the certificate")
	return cmd
}
