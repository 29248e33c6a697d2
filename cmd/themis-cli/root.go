package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/themis"
)

// commands are the nouns, in the order of the help. One file each.
var commands = []func(*app) *cobra.Command{
	playgroundCommand, clusterCommand, topCommand, shardCommand, nodeCommand, documentCommand, loadCommand, configCommand, pkiCommand, contextCommand, benchCommand,
	versionCommand, nodeRunCommand, benchRunCommand,
}

// run is the whole program. It ends soon after ctx does, or a signal comes.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := newApp(in, out, errOut, config.Environ(os.Environ()))
	root := rootCommand(a)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return a.code
	case a.began && ctx.Err() != nil:
		if themis.CodeOf(err) == themis.OutcomeUnknown { // what was interrupted may have been done
			a.complain(cmd, err)
		}
		return themis.ExitInterrupted
	case !a.began:
		err = usage(cmd, err)
	}
	a.complain(cmd, err)
	if a.code != themis.ExitOK {
		return a.code // a command that knows better: a part was done
	}
	return themis.Exit(err)
}

func rootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "themis-cli",
		Short: "Operate a ThemisDB cluster",
		Long: `themis-cli makes, watches and changes ThemisDB clusters, and reads and writes their documents.

The cluster is the one that --playground, --context or --endpoint names; else $THEMIS_ENDPOINT, $THEMIS_PLAYGROUND or
$THEMIS_CONTEXT; else the current context; else the playground in the user's cache directory.`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := a.flags.check(); err != nil {
				return err
			}
			a.began = true
			return nil
		},
	}
	a.flags.register(root.PersistentFlags(), a.env)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return flagError(cmd, err) })
	group(root)
	for _, c := range commands {
		root.AddCommand(c(a))
	}
	return root
}

// group makes a command that only holds others complain when none of them is named.
func group(c *cobra.Command, children ...*cobra.Command) *cobra.Command {
	c.AddCommand(children...)
	c.Args = cobra.ArbitraryArgs
	c.PreRunE = func(cmd *cobra.Command, args []string) error { return unknownCommand(cmd, args) }
	c.RunE = func(*cobra.Command, []string) error { return nil } // PreRunE has refused already
	return c
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if len(args) == 0 {
		return themis.Errorf(themis.InvalidArgument, "%s: no command given; there are: %s", cmd.CommandPath(), strings.Join(names, ", ")).
			Do("%s --help", cmd.CommandPath())
	}
	e := themis.Errorf(themis.InvalidArgument, "%s: unknown command %q", cmd.CommandPath(), args[0])
	cmd.SuggestionsMinimumDistance = 3
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return e.Do("%s %s", cmd.CommandPath(), nearest(args[0], near))
	}
	return e.Do("%s --help", cmd.CommandPath())
}

// nearest is the candidate that shares the most letters at its start and end.
func nearest(word string, candidates []string) string {
	return slices.MaxFunc(candidates, func(a, b string) int { return alike(word, a) - alike(word, b) })
}

func alike(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	m := 0
	for m < min(len(a), len(b))-n && a[len(a)-1-m] == b[len(b)-1-m] {
		m++
	}
	return 4*(n+m) - max(len(a), len(b))
}

// flagError says which flag is wrong, and the nearest right one.
func flagError(cmd *cobra.Command, err error) error {
	e := themis.Errorf(themis.InvalidArgument, "%s: %w", cmd.CommandPath(), err)
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && len(unknown.GetSpecifiedName()) > 1 {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		if len(names) > 0 {
			if near := nearest(unknown.GetSpecifiedName(), names); alike(unknown.GetSpecifiedName(), near) > 0 {
				return e.Do("%s --%s …", cmd.CommandPath(), near)
			}
		}
	}
	return e.Do("%s --help", cmd.CommandPath())
}

// usage makes what the command line's parser says a usage error.
func usage(cmd *cobra.Command, err error) error {
	if _, ours := errors.AsType[*themis.Error](err); ours {
		return err
	}
	return themis.Errorf(themis.InvalidArgument, "%s: %w", cmd.CommandPath(), err).Do("%s --help", cmd.CommandPath())
}

// wrong is a usage error found by a command itself.
func wrong(format string, args ...any) *themis.Error {
	return themis.Errorf(themis.InvalidArgument, "%s", fmt.Sprintf(format, args...))
}
