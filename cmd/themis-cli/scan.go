package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
)

// scanAnswer is the JSON of `doc scan -o json`.
type scanAnswer struct {
	Documents []documentAnswer `json:"documents"`
	Next      string           `json:"next"` // for --after; empty: nothing follows
}

func docScan(a *app) *cobra.Command {
	o := client.ScanOptions{}
	var consistency string
	cmd := &cobra.Command{
		Use: "scan COLLECTION", Annotations: streaming, Short: "Read the documents of a collection",
		Long: `Read the documents of a collection in order of token and key, those of all shards merged.

Without -o each document is one line: key, tab, document, as stored; a key with characters that don't print is quoted. -o ndjson is one JSON object a line, with key, version and shard.
After --limit documents the place to go on is said on stderr; give it to --after.`,
		Args: usage.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := ofUser(args[0], "themis-cli doc scan COLLECTION"); err != nil {
				return err
			}
			if o.Limit < 0 {
				return usage.Wrong("--limit %d: want 0 or more", o.Limit)
			}
			if o.Consistency, err = themis.ParseConsistency(consistency); err != nil {
				return err
			}
			return a.withClient(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error { return a.scan(ctx, c, args[0], o) })
		},
	}
	cmd.Flags().IntVar(&o.Limit, "limit", 0, "documents at most; 0: all")
	cmd.Flags().StringVar(&o.After, "after", "", "go on behind this `PLACE`")
	cmd.Flags().StringVar(&consistency, "consistency", "strong", "strong, bounded_staleness, session or eventual")
	return cmd
}

func (a *app) scan(ctx context.Context, c *client.Client, collection string, o client.ScanOptions) error {
	whole := scanAnswer{Documents: []documentAnswer{}}
	n, last := 0, ""
	for d, err := range c.Scan(ctx, collection, o) {
		if err != nil {
			return err
		}
		n++
		last = d.Cursor()
		switch a.flags.output {
		case "json", "yaml":
			whole.Documents = append(whole.Documents, answerOf(d))
		case "ndjson":
			err = a.line(answerOf(d))
		case "wide":
			err = a.write(fmt.Appendf(nil, "%s\t%s\t%s\t%s\n", shown(d.Key), d.Version, d.Shard, oneLine(d.Value)))
		default:
			err = a.write(fmt.Appendf(nil, "%s\t%s\n", shown(d.Key), oneLine(d.Value)))
		}
		if err != nil {
			return err
		}
	}
	if o.Limit > 0 && n == o.Limit {
		whole.Next = last
	}
	if a.flags.output == "json" || a.flags.output == "yaml" {
		return a.print(whole, func(io.Writer, bool) {})
	}
	switch {
	case n == 0 && o.After != "":
		a.say("# no more documents in %s", collection)
	case n == 0:
		a.say("# no documents in %s", collection)
	case whole.Next != "":
		a.say("# %d documents; go on with --after %s", n, whole.Next)
	}
	return nil
}

// oneLine keeps a document on its line. Line breaks stand only between the parts of a JSON document, where they mean nothing.
func oneLine(value []byte) string {
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(string(value))
}
