package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/themis"
)

func configCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "config", Short: "Check and show configurations"}, configValidate(a), configShow(a))
}

// faultAnswer is a fault or a warning in JSON.
type faultAnswer struct {
	Where  string `json:"where"` // file:line, env NAME, flag --name
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

func faultAnswers(list []config.Fault) []faultAnswer {
	out := []faultAnswer{}
	for _, f := range list {
		out = append(out, faultAnswer{f.Where, f.Key, f.Reason})
	}
	return out
}

// faultsOf are the single faults that Load has joined.
func faultsOf(err error) (out []config.Fault) {
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) { //nolint:errorlint // it walks the tree itself
		case nil:
		case config.Fault:
			out = append(out, e)
		case interface{ Unwrap() []error }:
			for _, inner := range e.Unwrap() {
				walk(inner)
			}
		default:
			walk(errors.Unwrap(err))
		}
	}
	walk(err)
	return out
}

// validateAnswer is the JSON of `config validate`.
type validateAnswer struct {
	Valid    bool          `json:"valid"`
	Files    []string      `json:"files"`
	Faults   []faultAnswer `json:"faults"`
	Warnings []faultAnswer `json:"warnings"`
}

func configValidate(a *app) *cobra.Command {
	var each bool
	cmd := &cobra.Command{
		Use: "validate FILE…", Short: "Check configuration files",
		Long: `Check configuration files: every key known, every value of its type and in its range, and all of it together possible. Later files
go over earlier ones, as with themisd --config; --each checks every file by itself. All faults are named at once, with file, line, key
and the nearest known name. Exit code 2 when there is a fault.`,
		Args: usage.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := validateAnswer{Valid: true, Files: args, Faults: []faultAnswer{}, Warnings: []faultAnswer{}}
			sets := [][]string{args}
			if each {
				sets = nil
				for _, f := range args {
					sets = append(sets, []string{f})
				}
			}
			var all []error
			for _, set := range sets {
				c, err := loadConfig(cmd.Context(), set, nil)
				out.Faults = append(out.Faults, faultAnswers(faultsOf(err))...)
				out.Warnings = append(out.Warnings, faultAnswers(c.Warnings())...)
				all = append(all, err)
			}
			if err := errors.Join(all...); err != nil {
				if len(out.Faults) == 0 {
					return err // a file that can't be read
				}
				out.Valid = false
				a.answer(themis.ExitUsage)
			}
			return a.print(out, func(w io.Writer, _ bool) { validateText(w, out) })
		},
	}
	cmd.Flags().BoolVar(&each, "each", false, "check every file by itself")
	return cmd
}

func validateText(w io.Writer, out validateAnswer) {
	for _, f := range out.Faults {
		_, _ = fmt.Fprintf(w, "fault: %s\n", config.Fault(f))
	}
	for _, f := range out.Warnings {
		_, _ = fmt.Fprintf(w, "warning: %s\n", config.Fault(f))
	}
	if out.Valid {
		_, _ = fmt.Fprintf(w, "valid, %s\n", counted(len(out.Warnings), "warning"))
		return
	}
	_, _ = fmt.Fprintf(w, "not valid: %s\n", counted(len(out.Faults), "fault"))
}

// loadConfig reads files and, where env is given, its variables.
func loadConfig(ctx context.Context, files []string, env map[string]string) (config.Config, error) {
	var sources []config.Source
	for _, f := range files {
		b, err := readLimited(ctx, f, settingsMax)
		if err != nil {
			return config.Config{}, err
		}
		sources = append(sources, config.Source{Name: f, Data: b})
	}
	return config.Load(sources, env, nil)
}

// withApplied is the configuration with what was applied to the cluster that is meant, and what is fixed there since it was made. A cluster
// that was not named, and does not answer or isn't there, only makes a note.
func (a *app) withApplied(ctx context.Context, c config.Config) (out config.Config, fixed map[string]string, err error) {
	out = c
	err = a.withClient(ctx, askTime, func(ctx context.Context, cl *client.Client) error {
		m, err := cl.Map(ctx)
		if err != nil {
			return err
		}
		fixed = cluster.Founding(cluster.Meta{Name: m.Cluster, Redundancy: m.Redundancy, VirtualNodes: m.Virtual}, m.Shards)
		out, err = c.With(m.Settings.Values)
		return err
	})
	if err != nil && !a.flags.named() {
		a.say("# without what was applied to a cluster: %v", err)
		return c, nil, nil
	}
	return out, fixed, err
}

func configShow(a *app) *cobra.Command {
	var files []string
	var local, set bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show every setting with where its value comes from",
		Long: `Show every setting with its value and where that comes from: the default, a file and line, the environment, or the cluster.

The values applied to the cluster that is meant are asked for, unless --local. Where none is named and the usual one does not answer, a
note on stderr says so, and the rest is shown. --config names the files that a node would read.`,
		Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd.Context(), files, a.env)
			if err != nil {
				return err
			}
			var fixed map[string]string
			if !local {
				if c, fixed, err = a.withApplied(cmd.Context(), c); err != nil {
					return err
				}
			}
			values := []config.Value{}
			for _, v := range c.Values() {
				if x, ok := fixed[v.Key]; ok {
					v.Value, v.From = x, "cluster"
				}
				if !set || v.From != "default" {
					values = append(values, v)
				}
			}
			if len(files) == 0 {
				a.say("# no node's file was read, so keys of scope node are not what a node has; its own: --config FILE, on its machine")
			}
			if set && len(values) == 0 {
				a.say("# nothing differs from the default")
			}
			return a.print(values, func(w io.Writer, wide bool) {
				head := "KEY VALUE FROM SCOPE"
				if wide {
					head += " SERVED MEANING"
				}
				var rows [][]string
				for _, v := range values {
					row := []string{v.Key, dash(v.Value), v.From, string(v.Scope)}
					if wide {
						row = append(row, yesNo(&v.Served), v.Meaning)
					}
					rows = append(rows, row)
				}
				columns(w, head, rows)
			})
		},
	}
	cmd.Flags().StringArrayVar(&files, "config", nil, "a configuration file; later ones go over earlier ones")
	cmd.Flags().BoolVar(&local, "local", false, "ask no cluster")
	cmd.Flags().BoolVar(&set, "set", false, "only what is not the default")
	return cmd
}
