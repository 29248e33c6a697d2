package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/doctor"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

func (a *app) checkCommand() *cobra.Command {
	var name, failOn, shard string
	c := &cobra.Command{
		Use: "check", Short: "Ask every member, compare what they say, and tell what is wrong", Args: usage.None,
		Long: `check asks every member of the cluster, twice, and compares what they say: maps, epochs, settings, clocks, versions, disks and the
certificates they show. A check that could not look is INCONCLUSIVE, never PASSED.

Exit code: 0 nothing at the bar, 1 findings at the bar or past it, 3 something could not be looked at, 5 no endpoint answers.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bar, err := doctor.ParseBar(failOn)
			if err != nil {
				return err
			}
			only, err := shardOf(shard)
			if err != nil {
				return err
			}
			t, err := a.target(name)
			if err != nil {
				return err
			}
			ctx, cancel := a.limited(cmd.Context())
			defer cancel()
			evidence, err := doctor.Gather(ctx, doctor.Options{Context: t, Cluster: name})
			d := doctor.Diagnose(evidence)
			if err != nil && d.Exit(health.Warning) != themis.ExitFailed { // no finding says why
				return err
			}
			if only != "" {
				if err := evidence.Has(only); err != nil {
					return fmt.Errorf("--shard: %w", err)
				}
				d = d.Only(only)
			}
			a.code = d.Exit(bar)
			return a.print(d, func(w io.Writer) { drawDiagnosis(w, d) })
		},
	}
	c.Flags().StringVar(&name, "cluster", "", "the `NAME` that the cluster must have; without other words of where, also the context to use")
	c.Flags().StringVar(&failOn, "fail-on", "warning", "exit 1 from this `SEVERITY` on: info, warning or critical")
	c.Flags().StringVar(&shard, "shard", "", "leave out what is about another shard than `SHARD`")
	return c
}

// columns writes rows under a head, aligned.
func columns(w io.Writer, head string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, strings.ReplaceAll(head, "|", "\t"))
	for _, r := range rows {
		_, _ = fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush() //nolint:errcheck // into memory
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func number[T any](v *T) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprint(*v)
}

func drawDiagnosis(w io.Writer, d doctor.Diagnosis) {
	_, _ = fmt.Fprintf(w, "%s: %s\n\n", dash(d.Cluster), summary(d))
	var rows [][]string
	for _, n := range d.Nodes {
		answers := "yes"
		if !n.Answers {
			answers = "no"
		}
		clock := "-"
		if n.SkewMs != nil {
			clock = fmt.Sprintf("%+.1f ms, give or take %.1f ms", *n.SkewMs, *n.ErrorMs)
		}
		ends := "-"
		if n.CertEnds != nil {
			ends = n.CertEnds.UTC().Format(time.DateOnly)
		}
		rows = append(rows, []string{dash(string(n.Node)), n.Addr, answers, dash(n.Version), number(n.Revision), clock, ends})
	}
	columns(w, "NODE|ADDRESS|ANSWERS|VERSION|MAP|CLOCK|CERTIFICATE ENDS", rows)
	_, _ = fmt.Fprintln(w)
	rows = nil
	for _, c := range d.Checks {
		rows = append(rows, []string{c.Name, string(c.Verdict), fmt.Sprintf("%d of %d", c.Looked, c.Of), c.Question})
	}
	columns(w, "CHECK|VERDICT|LOOKED AT|QUESTION", rows)
	drawFindings(w, d.Findings)
	drawUnlooked(w, d.Inconclusive)
}

func summary(d doctor.Diagnosis) string {
	count := map[health.Severity]int{}
	for _, f := range d.Findings {
		count[f.Severity]++
	}
	var parts []string
	for _, s := range []health.Severity{health.CriticalSv, health.Warning, health.Info} {
		if n := count[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	text := "no findings"
	if len(parts) > 0 {
		text = "findings: " + strings.Join(parts, ", ")
	}
	if n := len(d.Inconclusive); n > 0 {
		text += fmt.Sprintf("; %d not known", n)
	}
	return text
}

func drawFindings(w io.Writer, findings []doctor.Finding) {
	for _, f := range findings {
		_, _ = fmt.Fprintf(w, "\n%s  %s  %s: %s\n", f.Severity, f.Code, f.Subject, usage.Lowered(f.Title))
		if f.At != nil {
			_, _ = fmt.Fprintf(w, "  where:  %s\n", where(*f.At))
		}
		_, _ = fmt.Fprintf(w, "  why:    %s\n  likely: %s\n  next:   %s\n", f.Why, f.Cause, f.Fix)
		if f.At == nil {
			_, _ = fmt.Fprintf(w, "  seen:   %s ago%s\n", (time.Duration(f.AgeMs) * time.Millisecond).Round(100*time.Millisecond), by(f.SeenBy))
		}
	}
}

func where(p doctor.LogPlace) string {
	if p.Segment == "" {
		return p.File
	}
	return fmt.Sprintf("segment %s offset %d, seq %d, lsn %s", p.Segment, p.Offset, p.Seq, p.LSN)
}

func by(nodes []themis.NodeID) string {
	if len(nodes) == 0 {
		return ""
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = string(n)
	}
	return " by " + strings.Join(names, ", ")
}

func drawUnlooked(w io.Writer, list []doctor.Unlooked) {
	for _, u := range list {
		_, _ = fmt.Fprintf(w, "\nnot known  %s  %s: %s\n  next:   %s\n", u.Check, u.Subject, u.Why, u.Fix)
	}
}
