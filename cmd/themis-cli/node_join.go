package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const membershipTime = 2 * time.Minute

// joinFlags are those of `node join`, of which there are two: with a token, and without.
type joinFlags struct {
	control string
	replace bool
	dryRun  bool

	token, pin, id, out string
	names               []string
}

func nodeJoin(a *app) *cobra.Command {
	var f joinFlags
	cmd := &cobra.Command{
		Use: "join (ADDR | --token TOKEN --ca-pin PIN --id NODE --out DIR)", Short: "Make a node that runs a member; or get a new node its certificate",
		Long: `With ADDR: make the node that runs there, and belongs to no cluster, a member of this one. Up to three nodes that join become
members of the control plane as well. Missing copies of shards are made on the new node; copies that other nodes have stay there.
Repeated after a failure on the way it goes on; repeated when the node is a member it changes nothing and exits 0.

With --token: run on the new machine, before the node is started. It makes a key, which stays there, and has it signed by the node
at --endpoint, which must prove to be under the CA that --ca-pin names. The token is read from stdin (-) or a file (@FILE); given as
it is, every user of the machine can see it while the command runs.`,
		Example: `  themis-cli node join 10.0.0.4:50051
  themis-cli node token create
  themis-cli node join --endpoint 10.0.0.1:50051 --token - --ca-pin sha256:… --id node-4 --out pki --name 10.0.0.4`,
		Args: usage.Between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.token != "" {
				return a.joinByToken(cmd.Context(), f, args)
			}
			if len(args) == 0 {
				return usage.Wrong("node join: want the address of the node, or --token").Do("themis-cli node join HOST:50051")
			}
			return a.joinNode(cmd.Context(), f, client.WithPort(args[0]))
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.control, "control", "auto", "whether it becomes a member of the control plane: yes, no, or auto: until there are 3")
	fs.BoolVar(&f.replace, "replace", false, "its name is that of a member whose disk is lost: its copies are made anew")
	fs.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, or why it is refused, and change nothing")
	fs.StringVar(&f.token, "token", "", "a one-time `TOKEN` of \"node token create\": -, @FILE, or as it is")
	fs.StringVar(&f.pin, "ca-pin", "", "with --token: the pin of the cluster's CA, sha256:…")
	fs.StringVar(&f.id, "id", "", "with --token: the new node's id")
	fs.StringVar(&f.out, "out", "pki", "with --token: the `DIR` for the key, the certificate and ca.crt")
	fs.StringSliceVar(&f.names, "name", nil, "with --token: host names and addresses under which others dial the node; default: this host's name")
	return cmd
}

// joinedAnswer is the JSON of `node join ADDR`.
type joinedAnswer struct {
	Node         themis.NodeID   `json:"node"`
	Changed      bool            `json:"changed"` // false: it was a member already
	DryRun       bool            `json:"dry_run"` // nothing was changed; the rest is what would be
	Control      bool            `json:"control_member"`
	ControlNodes []themis.NodeID `json:"control_nodes"`
	Steps        []string        `json:"steps"`
	Note         string          `json:"note"`
}

func (a *app) joinNode(ctx context.Context, f joinFlags, addr string) error {
	return a.withClient(ctx, membershipTime, func(ctx context.Context, c *client.Client) error {
		var out joinedAnswer
		args := map[string]any{"addr": addr, "control": f.control, "replace": f.replace}
		err := c.Act(ctx, "node.join", args, f.dryRun, &out)
		if e, ok := errors.AsType[*themis.Error](err); ok && e.Code == themis.NotFound { // what a member says of an address at which nobody answers it
			e.Code = themis.Unreachable
		}
		if err != nil {
			return err
		}
		return a.print(out, func(w io.Writer, _ bool) {
			verb, next := "is a member", "themis-cli cluster health"
			switch {
			case !out.Changed:
				verb = "was a member already; nothing was changed"
			case out.DryRun:
				verb, next = "would become a member; nothing was changed", f.again(addr)
			}
			_, _ = fmt.Fprintf(w, "%s %s\n", out.Node, verb)
			showSteps(w, out.DryRun, out.Steps)
			pairs(w, "control plane", ids(out.ControlNodes), "note", out.Note)
			_, _ = fmt.Fprintln(w, "next: "+next)
		})
	})
}

// again is the command without --dry-run.
func (f joinFlags) again(addr string) string {
	text := "themis-cli node join " + addr
	if f.control != "auto" {
		text += " --control " + f.control
	}
	if f.replace {
		text += " --replace"
	}
	return text
}

// showSteps shows what a dry run would do, in its order.
func showSteps(w io.Writer, dry bool, steps []string) {
	if !dry {
		return
	}
	for i, s := range steps {
		_, _ = fmt.Fprintf(w, "  %d. %s\n", i+1, s)
	}
}

// tokenJoined is the JSON of `node join --token`.
type tokenJoined struct {
	Node    themis.NodeID `json:"node"`
	Cluster string        `json:"cluster"`
	Cert    string        `json:"cert"`
	Key     string        `json:"key"`
	CA      string        `json:"ca_cert"`
	DryRun  bool          `json:"dry_run"` // nothing was asked for and nothing written: cluster, run and next are empty
	Run     string        `json:"run"`     // the node's command line
	Next    string        `json:"next"`    // for an operator, when the node runs
}

func (a *app) joinByToken(ctx context.Context, f joinFlags, args []string) error {
	endpoints := a.flags.endpoints
	if len(endpoints) == 0 && a.env["THEMIS_ENDPOINT"] != "" {
		endpoints = strings.Split(a.env["THEMIS_ENDPOINT"], ",")
	}
	switch {
	case len(args) > 0:
		return usage.Wrong("node join %s: with --token the node doesn't run yet, so there is no address", args[0])
	case len(endpoints) != 1:
		return usage.Wrong("--endpoint: want the one node that `node token create` named")
	case f.pin == "" || f.id == "":
		return usage.Wrong("--token: --ca-pin and --id are needed as well")
	}
	if _, err := pki.PinnedConfig(f.pin, nil); err != nil {
		return err
	}
	files := pki.FilesIn(f.out, f.id)
	for _, name := range []string{files.Key, files.Cert} {
		if _, err := os.Stat(name); err == nil {
			return themis.Errorf(themis.RefusedUnsafe, "%s is there already", name).Do("another --out, or move the old files away")
		}
	}
	token, err := a.secret(ctx, f.token, "token")
	if err != nil {
		return err
	}
	f.token = token
	if _, err := pki.TokenID(f.token); err != nil {
		return err
	}
	if host, err := os.Hostname(); err == nil && len(f.names) == 0 {
		f.names = []string{host}
	}
	ctx, cancel := a.limited(ctx, askTime)
	defer cancel()
	if f.dryRun {
		return a.wouldJoin(ctx, f, files, client.WithPort(endpoints[0]))
	}
	if err := os.MkdirAll(f.out, 0o700); err != nil { // before the token is used up
		return onDisk(err)
	}
	issued, name, err := f.certificate(ctx, client.WithPort(endpoints[0]))
	if err != nil {
		return err
	}
	if err := issued.Save(files); err != nil {
		return onDisk(err)
	}
	out := tokenJoined{Node: themis.NodeID(f.id), Cluster: name, Cert: files.Cert, Key: files.Key, CA: files.CA}
	out.Run = fmt.Sprintf("themisd --id %s --data-dir %s --pki-cert %s --pki-key %s --pki-ca %s", f.id, filepath.Join("data", f.id), files.Cert, files.Key, files.CA)
	out.Next = fmt.Sprintf("themis-cli node join %s --endpoint %s", client.WithPort(f.names[0]), client.WithPort(endpoints[0]))
	return a.print(out, func(w io.Writer, _ bool) {
		pairs(w, "node", f.id, "cluster", out.Cluster, "certificate", out.Cert, "key", out.Key, "ca", out.CA)
		_, _ = fmt.Fprintf(w, "\nrun:  %s\nnext: %s (as an operator, when it runs)\n", out.Run, out.Next)
	})
}

// wouldJoin is the dry run of `node join --token`: the node at the endpoint must prove to be under the pinned CA. It is not told the token,
// which so is not used up; whether it is good is not known.
func (a *app) wouldJoin(ctx context.Context, f joinFlags, files pki.Files, addr string) error {
	conf, err := pki.PinnedConfig(f.pin, nil)
	if err != nil {
		return err
	}
	conf.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", addr)
	if _, refused := errors.AsType[*pki.Refusal](err); refused {
		return fmt.Errorf("node %s: %w", addr, err)
	}
	if err != nil {
		return themis.Errorf(themis.Unreachable, "node %s: %w", addr, err).Do("themis-cli node token create, as an operator: it names the endpoint and the pin")
	}
	_ = conn.Close() //nolint:errcheck // it was only looked at
	out := tokenJoined{Node: themis.NodeID(f.id), Cert: files.Cert, Key: files.Key, CA: files.CA, DryRun: true}
	return a.print(out, func(w io.Writer, _ bool) {
		_, _ = fmt.Fprintf(w, "%s would get a key and a certificate; nothing was changed, and the token was not shown to anybody\n", f.id)
		pairs(w, "signed by", addr+", which is under the pinned CA", "names", strings.Join(f.names, ", "), "certificate", out.Cert, "key", out.Key, "ca", out.CA)
	})
}

// certificate makes a key and has it signed. What comes back must be under the pinned CA, of this key and of this node.
func (f joinFlags) certificate(ctx context.Context, addr string) (issued *pki.Issued, cluster string, err error) {
	conf, err := pki.PinnedConfig(f.pin, nil)
	if err != nil {
		return nil, "", err
	}
	keyPEM, csr, err := pki.NewCSR(themis.NodeID(f.id))
	if err != nil {
		return nil, "", err
	}
	pool, err := rpc.NewPool(rpc.PoolOptions{TLS: conf})
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	c, err := pool.Admin(ctx, addr, "")
	if err != nil {
		return nil, "", err
	}
	resp, err := c.Join(ctx, &nodev1.JoinRequest{Token: f.token, CsrPem: csr, NodeId: f.id, Names: f.names})
	if err != nil {
		return nil, "", err
	}
	issued = &pki.Issued{CertPEM: resp.GetCertPem(), KeyPEM: keyPEM, CAPEM: resp.GetCaPem()}
	if err := f.check(issued); err != nil {
		return nil, "", themis.Errorf(themis.Internal, "%s answered with a certificate that is not the one asked for: %w", addr, err)
	}
	return issued, resp.GetClusterName(), nil
}

func (f joinFlags) check(is *pki.Issued) error {
	block, _ := pem.Decode(is.CAPEM)
	if block == nil {
		return errors.New("no CA came with it")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(is.CertPEM, is.KeyPEM)
	if err != nil {
		return err
	}
	info, err := pki.ParseInfo(pair.Leaf)
	switch {
	case err != nil:
		return err
	case !strings.EqualFold(pki.Pin(ca), f.pin):
		return fmt.Errorf("its CA has the pin %s", pki.Pin(ca))
	case string(info.Node) != f.id:
		return fmt.Errorf("it is for %s", info)
	}
	return pair.Leaf.CheckSignatureFrom(ca)
}

func nodeRemove(a *app) *cobra.Command {
	var force, dryRun bool
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "Take a node out of the cluster",
		Long: `Take a node that has no copies out of the cluster, and out of the control plane.

A node with copies is refused: stop it, and its copies are made anew on other nodes; cluster health tells when. A node that is no
member is no error.`,
		Args: usage.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), membershipTime, func(ctx context.Context, c *client.Client) error {
				var out struct {
					Node         themis.NodeID   `json:"node"`
					Changed      bool            `json:"changed"` // false: it was no member
					DryRun       bool            `json:"dry_run"` // nothing was changed; the rest is what would be
					ControlNodes []themis.NodeID `json:"control_nodes"`
					Steps        []string        `json:"steps"`
					Note         string          `json:"note"`
				}
				if err := c.Act(ctx, "node.remove", map[string]any{"id": args[0], "force": force}, dryRun, &out); err != nil {
					return err
				}
				return a.print(out, func(w io.Writer, _ bool) {
					verb := "is removed"
					switch {
					case !out.Changed:
						verb = "was no member; nothing was changed"
					case out.DryRun:
						verb = "would be removed; nothing was changed"
					}
					_, _ = fmt.Fprintf(w, "%s %s\n", out.Node, verb)
					showSteps(w, out.DryRun, out.Steps)
					pairs(w, "control plane", ids(out.ControlNodes), "note", out.Note)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also while it runs; never while it has copies")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, or why it is refused, and change nothing")
	return cmd
}

func nodeToken(a *app) *cobra.Command {
	var ttl time.Duration
	var dryRun bool
	create := &cobra.Command{
		Use: "create", Short: "Make a one-time token with which a new node gets its certificate",
		Long: "Make a one-time token with which a new node gets its certificate. The node asked must have pki.issuer_key; the token is shown once.",
		Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), askTime, func(ctx context.Context, c *client.Client) error {
				var out struct {
					DryRun   bool      `json:"dry_run"` // no token was made
					Token    string    `json:"token"`
					ID       string    `json:"id"` // the part that may be shown
					Expires  time.Time `json:"expires"`
					CAPin    string    `json:"ca_pin"`
					Endpoint string    `json:"endpoint"` // of the node that signs
				}
				if err := c.Act(ctx, "node.token", map[string]any{"ttl": ttl.String()}, dryRun, &out); err != nil {
					return err
				}
				return a.print(out, func(w io.Writer, _ bool) {
					if out.DryRun {
						_, _ = fmt.Fprintln(w, "a token would be made; nothing was changed")
						pairs(w, "valid until", out.Expires.Format(time.RFC3339), "ca pin", out.CAPin, "signed by", out.Endpoint)
						return
					}
					pairs(w, "token", out.Token, "valid until", out.Expires.Format(time.RFC3339), "ca pin", out.CAPin)
					_, _ = fmt.Fprintf(w, "next, on the new machine: themis-cli node join --endpoint %s --token - --ca-pin %s --id NODE --out pki\n(it asks for the token)\n", out.Endpoint, out.CAPin)
				})
			})
		},
	}
	create.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token may be used, at most 168h")
	create.Flags().BoolVar(&dryRun, "dry-run", false, "make no token; say whether one would be made, and by whom its certificate would be signed")
	return group(&cobra.Command{Use: "token", Short: "One-time tokens for new nodes"}, create)
}
