// Package usage is how the programs say that they were called in a wrong way, and how they write errors: what happened, why, and the next
// command to type.
//
// The parser's own errors are made ours here, so that every one of them is INVALID_ARGUMENT (exit code 2), names the flag or the argument, and
// ends in a command that exists.
package usage

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/themis"
)

// Wrong is an error of the command line that a command finds by itself.
func Wrong(format string, args ...any) *themis.Error {
	return themis.Errorf(themis.InvalidArgument, "%s", fmt.Sprintf(format, args...))
}

// titled is an error whose code's title would mislead.
type titled struct {
	title string
	err   error
}

func (t *titled) Error() string { return t.err.Error() }
func (t *titled) Unwrap() error { return t.err }

// Titled is err under a headline of its own; its code stays.
func Titled(title string, err error) error { return &titled{title, err} }

// Unwritten says that the answer, which is there, could not be written to where it should go.
func Unwritten(err error) error {
	return Titled("The answer could not be written", themis.Errorf(themis.Internal, "write the answer: %w", err).Do("df -h, or another place for the answer"))
}

// None, Exactly, Between and AtLeast say how many arguments a command takes. Its Use names them.
func None(cmd *cobra.Command, args []string) error { return count(cmd, args, 0, 0) }

// Exactly takes n arguments.
func Exactly(n int) cobra.PositionalArgs { return Between(n, n) }

// AtLeast takes n arguments or more.
func AtLeast(n int) cobra.PositionalArgs { return Between(n, -1) }

// Between takes at least one number of arguments and at most another; a negative one is no limit.
func Between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return count(cmd, args, least, most) }
}

func count(cmd *cobra.Command, args []string, least, most int) error {
	names := argumentNames(cmd)
	var e *themis.Error
	switch {
	case len(args) < least && len(names) > len(args):
		e = Wrong("%s is missing: want %s", names[len(args)], strings.Join(names, " "))
	case len(args) < least:
		e = Wrong("%d arguments are missing", least-len(args))
	case most >= 0 && len(args) > most && most == 0:
		e = Wrong("%q: this command takes no arguments", args[0])
	case most >= 0 && len(args) > most:
		e = Wrong("%q: one argument too many: want %s", args[most], strings.Join(names, " "))
	default:
		return nil
	}
	return e.Do("%s --help", cmd.CommandPath())
}

var argumentName = regexp.MustCompile(`^[A-Z][A-Z0-9.a-z]*…?$`)

// argumentNames are the arguments that a command's Use shows, such as COLLECTION KEY; those in brackets are left out.
func argumentNames(cmd *cobra.Command) []string {
	_, rest, _ := strings.Cut(cmd.Use, " ")
	rest, _, _ = strings.Cut(rest, "[")
	var out []string
	flag := false // the word before was a flag, so this one is its value
	for _, w := range strings.Fields(rest) {
		w = strings.Trim(w, "()")
		if argumentName.MatchString(w) && !flag {
			out = append(out, strings.TrimSuffix(w, "…"))
		}
		flag = strings.HasPrefix(w, "-")
	}
	return out
}

// NotEmpty refuses flags that were given with nothing in them, as a script does whose variable is not set: an empty --if-match would write
// over anything, an empty --endpoint ask another cluster.
func NotEmpty(cmd *cobra.Command) error {
	var e *themis.Error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch v := f.Value.(type) {
		case pflag.SliceValue:
			if strings.HasPrefix(f.Value.Type(), "string") && slices.ContainsFunc(v.GetSlice(), blank) || len(v.GetSlice()) == 0 {
				e = Wrong("--%s: a value is empty in %q", f.Name, strings.Join(v.GetSlice(), ","))
			}
		default:
			if f.Value.Type() == "string" && blank(f.Value.String()) {
				e = Wrong("--%s: it is empty; give a value, or leave the flag out", f.Name)
			}
		}
	})
	if e == nil {
		return nil
	}
	return e.Do("%s --help", cmd.CommandPath())
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }

// Flag says what is wrong with a flag, and names the nearest right one. It is a cobra FlagErrorFunc.
func Flag(cmd *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		return unknownFlag(cmd, unknown)
	}
	e := Wrong("%v", err)
	if missing, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		e = Wrong("--%s: its value is missing: %s", missing.GetFlag().Name, meaning(missing.GetFlag()))
	}
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		e = Wrong("--%s %q: want %s", bad.GetFlag().Name, bad.GetValue(), wanted(bad))
	}
	return e.Do("%s --help", cmd.CommandPath())
}

func unknownFlag(cmd *cobra.Command, err *pflag.NotExistError) error {
	name := err.GetSpecifiedName()
	if short := err.GetSpecifiedShortnames(); short != "" {
		return Wrong("-%s: there is no such flag", name).Do("%s --help", cmd.CommandPath())
	}
	e := Wrong("--%s: there is no such flag", name)
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := nearest(name, names); near != "" {
		return e.Do("%s --%s …", cmd.CommandPath(), near)
	}
	for _, c := range cmd.Commands() {
		if c.Name() == name && c.IsAvailableCommand() {
			return e.Do("%s", c.CommandPath())
		}
	}
	return e.Do("%s --help", cmd.CommandPath())
}

// wanted is the kind of value that a flag takes.
func wanted(bad *pflag.InvalidValueError) string {
	switch bad.GetFlag().Value.Type() {
	case "int", "int64", "uint", "uint32", "uint64":
		return "a whole number"
	case "float64":
		return "a number"
	case "duration":
		return "a time such as 5s or 2m"
	case "bool":
		return "true or false"
	}
	return meaning(bad.GetFlag()) + ": " + errors.Unwrap(bad).Error()
}

// meaning is a flag's help without the marks around the name of its value.
func meaning(f *pflag.Flag) string { return strings.ReplaceAll(f.Usage, "`", "") }

// Unknown says that a command which only holds others doesn't have the one that is named, and which was meant.
func Unknown(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Annotations["unserved"] == "" {
			names = append(names, c.Name())
		}
	}
	if len(args) == 0 {
		return Wrong("no command given; there are: %s", strings.Join(names, ", ")).Do("%s --help", cmd.CommandPath())
	}
	e := Wrong("unknown command %q; there are: %s", args[0], strings.Join(names, ", "))
	if meant := namesakes(cmd, args[0]); len(meant) > 0 {
		if len(meant) == 1 {
			meant[0] = strings.Join(append(meant, args[1:]...), " ")
		}
		return e.Do("%s", strings.Join(meant, ", or "))
	}
	if near := nearest(args[0], names); near != "" {
		return e.Do("%s", strings.Join(append([]string{cmd.CommandPath(), near}, args[1:]...), " "))
	}
	return e.Do("%s --help", cmd.CommandPath())
}

// Defaults makes the commands that cobra brings along, help and completion, refuse what they don't know.
func Defaults(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Args = cobra.ArbitraryArgs
			c.RunE = Unknown
		case "help":
			c.Run = nil
			c.RunE = func(cmd *cobra.Command, args []string) error {
				about, rest, err := cmd.Root().Find(args)
				if err != nil {
					return Of(cmd, err)
				}
				if len(rest) > 0 && about.HasSubCommands() {
					return Unknown(about, rest[:1])
				}
				about.InitDefaultHelpFlag()
				return about.Help()
			}
		}
	}
}

// namesakes are the commands of that very name: below cmd, else anywhere.
func namesakes(cmd *cobra.Command, name string) []string {
	for _, from := range []*cobra.Command{cmd, cmd.Root()} {
		var out []string
		var walk func(*cobra.Command)
		walk = func(c *cobra.Command) {
			for _, child := range c.Commands() {
				if child.IsAvailableCommand() && child.Name() == name {
					out = append(out, child.CommandPath())
				}
				walk(child)
			}
		}
		walk(from)
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// nearest is the candidate that was most likely meant: the only one that begins with word, else one that is spelled much like it; empty: there is none.
func nearest(word string, candidates []string) string {
	longer := slices.DeleteFunc(slices.Clone(candidates), func(c string) bool { return len(word) < 3 || !strings.HasPrefix(c, word) })
	if len(longer) == 1 {
		return longer[0]
	}
	return config.Nearest(word, slices.Values(candidates))
}

// Of makes what came before a command ran a usage error, whoever said it.
func Of(cmd *cobra.Command, err error) error {
	if _, ours := errors.AsType[*themis.Error](err); ours {
		return err
	}
	return themis.Errorf(themis.InvalidArgument, "%w", err).Do("%s --help", cmd.CommandPath())
}

// WantsJSON answers whether errors are to be written as JSON, for a command line that could not be read to its end.
func WantsJSON(args []string, env string) bool {
	format := env
	for i, a := range args {
		switch {
		case a == "--":
			return format == "json" || format == "ndjson"
		case (a == "-o" || a == "--output") && i+1 < len(args):
			format = args[i+1]
		case strings.HasPrefix(a, "--output="):
			format = strings.TrimPrefix(a, "--output=")
		case strings.HasPrefix(a, "-o"):
			format = strings.TrimPrefix(strings.TrimPrefix(a, "-o"), "=")
		}
	}
	return format == "json" || format == "ndjson"
}

// Complain writes an error: what happened, why, and the next command to type; as one line of problem JSON where a program reads it.
func Complain(w io.Writer, cmd *cobra.Command, err error, asJSON bool) {
	p := client.ProblemOf(err)
	p.Title = themis.CodeOf(err).Info().Title
	if t, ok := errors.AsType[*titled](err); ok {
		p.Title = t.title
	}
	if p.Fix == themis.InvalidArgument.Info().Next { // that of a server: here it is flags and arguments that can be corrected
		p.Fix = cmd.CommandPath() + " --help"
	}
	if asJSON {
		_, _ = fmt.Fprintf(w, "%s\n", p.JSON())
		return
	}
	_, _ = fmt.Fprintf(w, "%s: %s\n  why:  %s\n", cmd.CommandPath(), Lowered(p.Title), indented(whole(err, p.Detail)))
	if p.Fix != "" {
		_, _ = fmt.Fprintf(w, "  next: %s\n", indented(p.Fix))
	}
}

// whole is the error's text with the verbs and places that were wrapped around it.
func whole(err error, detail string) string {
	if text := err.Error(); strings.Contains(text, detail) {
		return text
	}
	return detail
}

func indented(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n        ")
}

// Lowered begins a title with a small letter, unless it begins with a name such as HTTP or LOG.
func Lowered(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if next, _ := utf8.DecodeRuneInString(s[n:]); unicode.IsUpper(next) {
		return s
	}
	return string(unicode.ToLower(r)) + s[n:]
}
