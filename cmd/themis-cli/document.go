package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
)

func documentCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "doc", Short: "Read and write documents"}, docPut(a), docGet(a), docDelete(a), docScan(a))
}

const requestTime = 10 * time.Second

// writtenAnswer is the JSON of `doc put` and `doc delete`; the fields are those of HTTP.
type writtenAnswer struct {
	Collection   string              `json:"collection"`
	Key          string              `json:"key"`
	Version      string              `json:"version"`
	Seq          themis.Seq          `json:"seq"`
	HLC          string              `json:"hlc"`
	Shard        themis.ShardID      `json:"shard"`
	SessionToken string              `json:"session_token"`
	WriteConcern themis.WriteConcern `json:"write_concern"`
	RequestID    string              `json:"request_id"`
	Existed      bool                `json:"existed"`
}

// writeFlags are those of `doc put` and `doc delete`.
type writeFlags struct {
	ifMatch, concern, id, shardKey string
	ifNone                         bool
}

func (f *writeFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.ifMatch, "if-match", "", "only if the document is at this `VERSION`")
	fs.StringVar(&f.concern, "write-concern", "", "ask for more than the shard's mode: immediate, quorum, all or local_quorum")
	fs.StringVar(&f.id, "request-id", "", "a name for the write: repeated within 10 minutes it has one effect; default: a random one")
	fs.StringVar(&f.shardKey, "shard-key", "", "place the document by this text: only in a collection that is not placed by its keys, and there is none in this version")
}

func (f *writeFlags) options() ([]client.WriteOption, error) {
	concern, err := themis.ParseWriteConcern(f.concern)
	if err != nil {
		return nil, err
	}
	if len(f.id) > themis.MaxRequestIDBytes {
		return nil, usage.Wrong("--request-id: %d bytes; at most %d", len(f.id), themis.MaxRequestIDBytes)
	}
	if f.ifMatch != "" && f.ifNone {
		return nil, usage.Wrong("--if-match and --if-none-match contradict each other")
	}
	out := []client.WriteOption{client.Concern(concern), client.RequestID(f.id), client.IfMatch(f.ifMatch), client.ShardKey(f.shardKey)}
	if f.ifNone {
		out = append(out, client.IfNoneMatch())
	}
	return out, nil
}

func (a *app) printWritten(collection, key string, w client.Written, verb string) error {
	out := writtenAnswer{
		Collection: collection, Key: key, Seq: w.Seq, HLC: w.HLC, Shard: w.Shard, SessionToken: w.Session, WriteConcern: w.Concern, RequestID: w.RequestID,
	}
	if len(w.Results) > 0 {
		out.Version, out.Existed = w.Results[0].Version, w.Results[0].Existed
	}
	return a.print(out, func(t io.Writer, wide bool) {
		_, _ = fmt.Fprintf(t, "%s/%s %s: version %s on %s\n", collection, shown(key), verb, out.Version, out.Shard)
		if wide {
			pairs(t, "seq", fmt.Sprint(out.Seq), "hlc", out.HLC, "write_concern", dash(string(out.WriteConcern)), "request_id", out.RequestID, "session_token", out.SessionToken)
		}
	})
}

// ofUser refuses a collection that can't be a user's before anybody is asked; like is the command for one that can.
func ofUser(collection, like string) error {
	err := themis.CheckCollection(collection)
	if e, ok := errors.AsType[*themis.Error](err); ok && e.Code == themis.PermissionDenied {
		name := strings.TrimLeft(collection, "_")
		if themis.CheckCollection(name) != nil {
			name = "COLLECTION"
		}
		return e.Do("in a collection of your own: %s", strings.Replace(like, "COLLECTION", name, 1))
	}
	return err
}

func docPut(a *app) *cobra.Command {
	var f writeFlags
	cmd := &cobra.Command{
		Use: "put COLLECTION KEY [JSON | @FILE | -]", Short: "Store a document",
		Long: "Store a document: JSON given as it is, from a file behind @, or from stdin (- or nothing). The bytes are kept as they are sent.",
		Args: usage.Between(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ofUser(args[0], "themis-cli doc put COLLECTION "+args[1]); err != nil {
				return err
			}
			opts, err := f.options()
			if err != nil {
				return err
			}
			value, err := a.value(cmd.Context(), args[2:])
			if err != nil {
				return err
			}
			if err := json.Unmarshal(value, new(json.RawMessage)); err != nil {
				return usage.Wrong("document %q: not valid JSON: %v", args[1], err)
			}
			return a.withClient(cmd.Context(), requestTime, func(ctx context.Context, c *client.Client) error {
				w, err := c.Put(ctx, args[0], args[1], value, opts...)
				if err != nil {
					return withID(err, w.RequestID)
				}
				return a.printWritten(args[0], args[1], w, "stored")
			})
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.ifNone, "if-none-match", false, "only if there is no such document")
	return cmd
}

// withID names the request of a write whose outcome is not known, so that the user can repeat that very write.
func withID(err error, id string) error {
	if e, ok := errors.AsType[*themis.Error](err); ok && e.Code == themis.OutcomeUnknown && e.Fix == "" {
		return e.Do("read the document before writing again, or repeat the command with --request-id %s", id)
	}
	return err
}

// withList says how to see what there is, where something isn't.
func withList(err error, collection string) error {
	if e, ok := errors.AsType[*themis.Error](err); ok && e.Code == themis.NotFound && e.Fix == "" {
		return e.Do("themis-cli doc scan %s --limit 10", collection)
	}
	return err
}

// value is the document that the arguments name.
func (a *app) value(ctx context.Context, args []string) ([]byte, error) {
	from := "-"
	if len(args) > 0 {
		from = args[0]
	}
	switch {
	case from == "-":
		if terminal(a.in) {
			a.say("# type the document, then Ctrl-D")
		}
		b, err := io.ReadAll(io.LimitReader(bounded(ctx, a.in), themis.MaxDocumentBytes+1))
		if err != nil {
			return nil, themis.Errorf(themis.InvalidArgument, "read stdin: %w", err)
		}
		return b, checkSize("stdin", len(b))
	case strings.HasPrefix(from, "@"):
		b, err := readLimited(ctx, from[1:], themis.MaxDocumentBytes+1)
		if err != nil {
			return nil, err
		}
		return b, checkSize(from[1:], len(b))
	}
	return []byte(from), checkSize("the argument", len(from))
}

func checkSize(what string, n int) error {
	if n > themis.MaxDocumentBytes {
		return themis.Errorf(themis.TooLarge, "%s: more than %d bytes (16 MiB), the most that a document may have", what, themis.MaxDocumentBytes)
	}
	return nil
}

// documentAnswer is the JSON of `doc get`, and a line of `doc scan`.
type documentAnswer struct {
	Collection string          `json:"collection"`
	Key        string          `json:"key"`
	Version    string          `json:"version"`
	Shard      themis.ShardID  `json:"shard"`
	Token      themis.Token    `json:"token"`
	Session    string          `json:"session_token,omitempty"`
	Document   json.RawMessage `json:"document"`
}

func answerOf(d client.Doc) documentAnswer {
	return documentAnswer{d.Collection, d.Key, d.Version, d.Shard, d.Token, d.Session, d.Value}
}

func docGet(a *app) *cobra.Command {
	var consistency, session, shardKey string
	cmd := &cobra.Command{
		Use: "get COLLECTION KEY", Short: "Read a document",
		Long: "Read a document. Without -o the bytes are written as they were stored, with a newline behind them on a terminal.",
		Args: usage.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ofUser(args[0], "themis-cli doc get COLLECTION "+args[1]); err != nil {
				return err
			}
			level, err := themis.ParseConsistency(consistency)
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), requestTime, func(ctx context.Context, c *client.Client) error {
				d, err := c.Get(ctx, args[0], args[1], client.Consistency(level), client.InSession(session), client.ReadShardKey(shardKey))
				if err != nil {
					return withList(err, args[0])
				}
				return a.print(answerOf(d), func(w io.Writer, wide bool) {
					_, _ = w.Write(d.Value)
					if (wide || terminal(a.out)) && !bytes.HasSuffix(d.Value, []byte("\n")) {
						_, _ = fmt.Fprintln(w)
					}
					if wide {
						pairs(w, "version", d.Version, "shard", string(d.Shard), "token", fmt.Sprint(d.Token), "session_token", d.Session)
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&consistency, "consistency", "strong", "strong, bounded_staleness, session or eventual")
	cmd.Flags().StringVar(&session, "session-token", "", "read no older state than the answer that gave this `TOKEN`")
	cmd.Flags().StringVar(&shardKey, "shard-key", "", "the text that the document was placed by, in a collection that is not placed by its keys")
	return cmd
}

func docDelete(a *app) *cobra.Command {
	var f writeFlags
	cmd := &cobra.Command{
		Use: "delete COLLECTION KEY", Short: "Remove a document", Args: usage.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ofUser(args[0], "themis-cli doc delete COLLECTION "+args[1]); err != nil {
				return err
			}
			opts, err := f.options()
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), requestTime, func(ctx context.Context, c *client.Client) error {
				w, err := c.Delete(ctx, args[0], args[1], opts...)
				if err != nil {
					return withList(withID(err, w.RequestID), args[0])
				}
				return a.printWritten(args[0], args[1], w, "removed")
			})
		},
	}
	f.register(cmd)
	return cmd
}
