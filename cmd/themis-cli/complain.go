package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
)

// complain writes an error to stderr: what happened, why, and the next command to type; as problem JSON under -o json.
func (a *app) complain(cmd *cobra.Command, err error) {
	p := client.ProblemOf(err)
	if a.flags.output == "json" || a.flags.output == "ndjson" {
		_, _ = fmt.Fprintf(a.errOut, "%s\n", p.JSON())
		return
	}
	what := lowered(themis.CodeOf(err).Info().Title)
	_, _ = fmt.Fprintf(a.errOut, "%s: %s\n  why:  %s\n", cmd.CommandPath(), what, indented(whole(err, p.Detail)))
	if p.Fix != "" {
		_, _ = fmt.Fprintf(a.errOut, "  next: %s\n", indented(p.Fix))
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

// lowered begins a title with a small letter.
func lowered(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}
