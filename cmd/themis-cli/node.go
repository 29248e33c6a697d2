package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/tui"
)

func nodeCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "node", Short: "The nodes"}, nodeList(a), nodeShow(a), nodeDescribe(a), nodeJoin(a), nodeRemove(a), nodeToken(a))
}

func nodeList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the nodes", Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withReport(cmd.Context(), func(r health.Report, raw rawReport) error {
				return a.print(raw.Nodes, func(w io.Writer, wide bool) { nodeTable(w, r, wide) })
			})
		},
	}
}

func nodeShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show NODE", Short: "Show a node, its copies, and what is wrong with it", Args: usage.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := themis.NodeID(args[0])
			return a.withReport(cmd.Context(), func(r health.Report, raw rawReport) error {
				for i, n := range r.Nodes {
					if n.ID == id {
						return a.print(raw.Nodes[i], func(w io.Writer, _ bool) { showNode(w, a, r, n) })
					}
				}
				return notFound("node", string(id), "themis-cli node list")
			})
		},
	}
}

func showNode(w io.Writer, a *app, r health.Report, n health.NodeReport) {
	pairs(w, "node", string(n.ID), "role", string(n.Role), "state", string(n.State), "heard", since(n.LastHeartbeat), "disk", percent(n.DiskUsed),
		"up for", since(n.UptimeMs), "grpc", dash(n.GRPC), "http", dash(n.HTTP), "region", dash(n.Region), "datacenter", dash(n.Datacenter), "rack", dash(n.Rack),
		"storage", dash(string(n.StorageID)), "version", dash(n.Version))
	var rows [][]string
	for _, s := range r.Shards {
		if c, ok := s.Replica(n.ID); ok {
			rows = append(rows, []string{string(s.ID), string(c.Role), string(c.State), number(c.Seq), number(c.LagEntries), yesNo(c.FailoverReady)})
		}
	}
	_, _ = fmt.Fprintln(w)
	columns(w, "SHARD ROLE STATE SEQ LAG-ENTRIES READY", rows)
	about := r
	about.Findings = nil
	for _, f := range r.Findings {
		if f.Subject == string(n.ID) {
			about.Findings = append(about.Findings, f)
		}
	}
	st, width := a.style()
	st.All = true
	if text := tui.Findings(about, width, st); text != "" {
		_, _ = fmt.Fprintf(w, "\n%s", text)
	}
}

func nodeDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "describe --endpoint HOST[,HOST…]", Short: "Ask nodes who they are, whether they belong to a cluster or not", Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx, cancel := a.limited(cmd.Context(), askTime)
			defer cancel()
			t, err := a.target()
			if err != nil {
				return err
			}
			c, err := a.dial(ctx, t)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			out := []client.Description{}
			var faults []error
			for _, e := range t.Endpoints {
				d, err := describeOne(ctx, c, e)
				if err != nil {
					faults = append(faults, fmt.Errorf("node %s: %w", e, err))
					continue
				}
				out = append(out, d)
			}
			if err := a.print(out, func(w io.Writer, wide bool) { descriptionTable(w, out, wide) }); err != nil {
				return err
			}
			return errors.Join(faults...)
		},
	}
}

func describeOne(ctx context.Context, c *client.Client, addr string) (client.Description, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.Describe(ctx, addr)
}

func descriptionTable(w io.Writer, list []client.Description, wide bool) {
	head := "NODE CLUSTER ROLE GRPC HTTP PID VERSION"
	if wide {
		head += " STORAGE CLUSTER-ID CONTROL DATACENTER RACK"
	}
	var rows [][]string
	for _, d := range list {
		row := []string{string(d.Node), dash(d.Cluster), string(d.Role), dash(d.GRPC), dash(d.HTTP), fmt.Sprint(d.Pid), dash(d.Version)}
		if wide {
			row = append(row, string(d.Storage), dash(string(d.ClusterID)), dash(d.ControlPeer), dash(d.Datacenter), dash(d.Rack))
		}
		rows = append(rows, row)
	}
	columns(w, head, rows)
}
