package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/themis"
)

// commands are the nouns, in the order of the help. One file each.
var commands = []func(*app) *cobra.Command{
	playgroundCommand, clusterCommand, topCommand, shardCommand, replicationCommand, nodeCommand, documentCommand, loadCommand, configCommand, pkiCommand, contextCommand, benchCommand,
	versionCommand, nodeRunCommand, benchRunCommand,
}

// run is the whole program. It ends soon after ctx does, or a signal comes.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the next one ends whatever waits all the same
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
		err = usage.Of(cmd, err)
		if usage.WantsJSON(args, a.env["THEMIS_OUTPUT"]) {
			a.flags.output = "json"
		}
	}
	err = a.judged(err)
	a.complain(cmd, err)
	if a.code != themis.ExitOK {
		return a.code // a command that knows better: a part was done
	}
	return themis.Exit(err)
}

// judged names what ended a command that doesn't say it itself: its time.
func (a *app) judged(err error) error {
	if _, ours := errors.AsType[*themis.Error](err); ours {
		return err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return themis.Errorf(themis.Deadline, "given up after --timeout %s: %w", a.flags.timeout, err).Do("give it more: --timeout TIME")
	case errors.Is(err, context.Canceled): // nobody reads the answer any more
		a.answer(themis.ExitInterrupted)
	}
	return err
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
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.flags.check(); err != nil {
				return err
			}
			if err := usage.NotEmpty(cmd); err != nil {
				return err
			}
			if a.flags.output == "ndjson" && cmd.Annotations[streams] == "" && cmd.Runnable() && !cmd.HasSubCommands() {
				return usage.Wrong("--output ndjson: this answer does not stream; want table, wide, json or yaml").Do("%s -o json", cmd.CommandPath())
			}
			a.began = true
			return nil
		},
	}
	a.flags.register(root.PersistentFlags(), a.env)
	root.SetFlagErrorFunc(usage.Flag)
	group(root)
	for _, c := range commands {
		root.AddCommand(c(a))
	}
	addUnserved(root)
	usage.Defaults(root)
	return root
}

// streams is the annotation of commands whose answer is, or may be, a stream: they have -o ndjson.
const streams = "streams"

var streaming = map[string]string{streams: "yes"}

// group makes a command that only holds others complain when none of them is named.
func group(c *cobra.Command, children ...*cobra.Command) *cobra.Command {
	c.AddCommand(children...)
	c.Args = cobra.ArbitraryArgs
	c.PreRunE = func(cmd *cobra.Command, args []string) error { return usage.Unknown(cmd, args) }
	c.RunE = func(*cobra.Command, []string) error { return nil } // PreRunE has refused already
	return c
}
