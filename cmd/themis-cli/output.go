package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/themis"
)

// print writes an answer in the form that was asked for; table draws it for people.
func (a *app) print(v any, table func(w io.Writer, wide bool)) error {
	switch a.flags.output {
	case "json":
		return a.printJSON(v)
	case "yaml":
		return a.printYAML(v)
	case "ndjson":
		return usage.Wrong("--output ndjson: only a stream has it; want table, wide, json or yaml")
	}
	var b bytes.Buffer
	table(&b, a.flags.output == "wide")
	return a.write(b.Bytes())
}

func (a *app) write(b []byte) error {
	if _, err := a.out.Write(b); err != nil {
		return a.unwritten(err)
	}
	return nil
}

// unwritten is the error for an answer that can't be written: the command failed, and nothing is wrong with it.
func (a *app) unwritten(err error) error {
	if a.code == themis.ExitOK {
		a.answer(themis.ExitFailed)
	}
	return usage.Unwritten(err)
}

func (a *app) printJSON(v any) error {
	b, err := jsonOf(v)
	if err != nil {
		return err
	}
	return a.write(append(b, '\n'))
}

// jsonOf is v as indented JSON, with <, > and & as they are.
func jsonOf(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, themis.Errorf(themis.Internal, "encode the answer: %w", err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// line writes one line of a stream.
func (a *app) line(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return themis.Errorf(themis.Internal, "encode the answer: %w", err)
	}
	return a.write(b.Bytes())
}

// printYAML writes the same fields in the same order as JSON.
func (a *app) printYAML(v any) error {
	b, err := jsonOf(v)
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil {
		return themis.Errorf(themis.Internal, "encode the answer: %w", err)
	}
	plainStyle(&n)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return themis.Errorf(themis.Internal, "encode the answer: %w", err)
	}
	return a.write(out.Bytes())
}

// plainStyle takes JSON's braces and quotes away; the encoder puts quotes back where a text would be read as something else.
func plainStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plainStyle(c)
	}
}

// counted is a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// columns writes rows under a head, aligned.
func columns(w io.Writer, head string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, strings.Join(strings.Fields(head), "\t"))
	for _, r := range rows {
		_, _ = fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush() //nolint:errcheck // into memory
}

// pairs writes names and values below each other.
func pairs(w io.Writer, list ...string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i := 0; i+1 < len(list); i += 2 {
		_, _ = fmt.Fprintf(t, "%s\t%s\n", list[i], list[i+1])
	}
	_ = t.Flush() //nolint:errcheck // into memory
}

// number is a number or a dash where it isn't known.
func number[T any](v *T) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprint(*v)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return "-"
	case *b:
		return "yes"
	}
	return "no"
}

// size is a number of bytes for people.
func size[T ~int64](v *T) string {
	if v == nil {
		return "-"
	}
	return humanBytes(int64(*v))
}

func humanBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= unit && i < 5 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[i])
}

func since(ms *int64) string {
	if ms == nil {
		return "-"
	}
	return (time.Duration(*ms) * time.Millisecond).String()
}

func ids[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return dash(strings.Join(out, ","))
}

// shown is a key as a line of text holds it: quoted where it has characters that don't print, and so could break the line or steer the
// terminal, or begins with a quote itself.
func shown(key string) string {
	if strings.HasPrefix(key, `"`) || strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(key)
	}
	return key
}
