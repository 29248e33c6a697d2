package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/themis"
)

// applyAnswer is the JSON of `cluster apply-config`.
type applyAnswer struct {
	File          string         `json:"file"`
	Applied       bool           `json:"applied"` // false: a dry run, or nothing to change
	ConfigVersion uint64         `json:"config_version"`
	Changes       []changeAnswer `json:"changes"`
	NodeLocal     []string       `json:"node_local"` // keys of the file that belong to each node, and are not applied to the cluster
	Warnings      []faultAnswer  `json:"warnings"`
}

type changeAnswer struct {
	config.Change
	Effect string `json:"effect"`
}

func clusterApplyConfig(a *app) *cobra.Command {
	var dryRun, exitCode bool
	cmd := &cobra.Command{
		Use: "apply-config FILE", Short: "Check settings, show the difference, and apply them to the whole cluster",
		Long: `Check a file of settings, show how it differs from what is in force, and apply its cluster-wide values. A file with a fault changes
nothing; every fault is named with file, line and key. With --dry-run --exit-code the exit code is 10 when there is something to change.`,
		Example: "  themis-cli cluster apply-config config/sharding/shard-router.yaml --dry-run",
		Args:    usage.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := readLimited(cmd.Context(), args[0], settingsMax)
			if err != nil {
				return err
			}
			next, err := config.Load([]config.Source{{Name: args[0], Data: b}}, nil, nil)
			if err != nil {
				return err
			}
			out := applyAnswer{File: args[0], Changes: []changeAnswer{}, NodeLocal: []string{}, Warnings: faultAnswers(next.Warnings())}
			for _, v := range next.Values() {
				if v.From != "default" && v.Scope == config.NodeLocal {
					out.NodeLocal = append(out.NodeLocal, v.Key)
				}
			}
			return a.withClient(cmd.Context(), askTime, func(ctx context.Context, c *client.Client) error {
				return a.applyConfig(ctx, c, out, b, dryRun, exitCode)
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the difference and change nothing")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 10 when there are changes that are not applied")
	return cmd
}

func (a *app) applyConfig(ctx context.Context, c *client.Client, out applyAnswer, yaml []byte, dryRun, exitCode bool) error {
	done, err := c.ApplyConfig(ctx, filepath.Base(out.File), yaml, dryRun)
	if err != nil {
		return err
	}
	var changes []config.Change
	if err := json.Unmarshal(done.Changes, &changes); err != nil {
		return themis.Errorf(themis.Internal, "changes: %w", err)
	}
	for _, ch := range changes {
		out.Changes = append(out.Changes, changeAnswer{ch, ch.Effect()})
	}
	out.Applied, out.ConfigVersion = done.Applied, done.Version
	if exitCode && len(changes) > 0 && !out.Applied {
		a.answer(themis.ExitPending)
	}
	return a.print(out, func(w io.Writer, _ bool) { applyText(w, out) })
}

func applyText(w io.Writer, out applyAnswer) {
	for _, x := range out.Warnings {
		_, _ = fmt.Fprintf(w, "warning: %s\n", config.Fault(x))
	}
	for _, key := range out.NodeLocal {
		_, _ = fmt.Fprintf(w, "left out: %s belongs to each node: set it in the nodes' own files\n", key)
	}
	var rows [][]string
	for _, c := range out.Changes {
		rows = append(rows, []string{c.Key, dash(c.Old), dash(c.New), c.Effect})
	}
	switch {
	case len(rows) == 0:
		_, _ = fmt.Fprintf(w, "nothing to change; configuration version %d is in force\n", out.ConfigVersion)
		return
	case out.Applied:
		columns(w, "KEY OLD NEW EFFECT", rows)
		_, _ = fmt.Fprintf(w, "\napplied as configuration version %d\n", out.ConfigVersion)
	default:
		columns(w, "KEY OLD NEW EFFECT", rows)
		_, _ = fmt.Fprintf(w, "\nnot applied: --dry-run; configuration version %d is in force\n", out.ConfigVersion)
	}
}
