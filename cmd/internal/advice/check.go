package advice

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Unserved is the annotation of commands that answer UNIMPLEMENTED: nobody is to be told to type them.
const Unserved = "unserved"

// Check says what is wrong with the command: it isn't in the tree, isn't served, has a flag that isn't there or arguments that it refuses. make
// makes a fresh tree, since parsing leaves traces in it. needs are the flags that a command asks for by itself, by its path: one of
// each list.
func (c Command) Check(tree func() *cobra.Command, needs map[string][]string) error {
	root := tree()
	cmd, rest, err := root.Find(c.Words)
	if err != nil {
		return err
	}
	if cmd.DisableFlagParsing {
		if cmd.Annotations[Unserved] != "" {
			return fmt.Errorf("%s is not served", cmd.CommandPath())
		}
		return nil
	}
	if slices.Contains(rest, "--help") {
		return nil
	}
	switch {
	case cmd.HasAvailableSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-"):
		return fmt.Errorf("%s: no command %q", cmd.CommandPath(), rest[0])
	case cmd.Annotations[Unserved] != "":
		return fmt.Errorf("%s is not served", cmd.CommandPath())
	}
	if err := parse(cmd, rest, c.Open); err != nil || c.Open {
		return err
	}
	args := cmd.Flags().Args()
	if err := cmd.ValidateArgs(args); err != nil {
		return fmt.Errorf("%s: %w", cmd.CommandPath(), err)
	}
	if want := needs[cmd.CommandPath()]; len(want) > 0 && !slices.ContainsFunc(want, func(f string) bool {
		if f == "" {
			return len(args) > 0
		}
		return cmd.Flags().Changed(f)
	}) {
		return fmt.Errorf("%s: refused without one of --%s", cmd.CommandPath(), strings.Join(want, ", --"))
	}
	return nil
}

// parse reads the flags. Values that stand for others, such as TIME, are no fault.
func parse(cmd *cobra.Command, words []string, open bool) error {
	err := cmd.ParseFlags(words)
	if _, value := errors.AsType[*pflag.InvalidValueError](err); value {
		return nil
	}
	if _, missing := errors.AsType[*pflag.ValueRequiredError](err); missing && open {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.CommandPath(), err)
	}
	return nil
}
