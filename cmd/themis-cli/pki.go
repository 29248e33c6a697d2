package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

func pkiCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "pki", Short: "The CA and the certificates of nodes and clients"}, pkiInit(a), pkiIssue(a), pkiRenew(a), pkiShow(a), pkiToken(a))
}

const day = 24 * time.Hour

func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "pki", "the `DIR` of ca.crt and ca.key, and of what is issued")
}

func pkiInit(a *app) *cobra.Command {
	var dir, cluster, name, algorithm string
	var days int
	cmd := &cobra.Command{
		Use: "init --cluster NAME", Short: "Make the CA of a cluster",
		Long: "Make the CA of a cluster: ca.crt and ca.key (mode 0600) in the directory. A CA key that is there is never overwritten.",
		Args: usage.None,
		RunE: func(*cobra.Command, []string) error {
			if cluster == "" {
				return usage.Wrong("--cluster is missing: want the cluster's name, a DNS label").Do("themis-cli pki init --cluster NAME --dir %s", dir)
			}
			if days < 1 || days > mostDays {
				return usage.Wrong("--days %d: want 1 to %d", days, mostDays)
			}
			ca, err := pki.NewCA(pki.CAOptions{CommonName: name, Cluster: cluster, Valid: time.Duration(days) * day, Algorithm: pki.Algorithm(algorithm)})
			if err != nil {
				return err
			}
			if err := ca.Save(dir); err != nil {
				return onDisk(err)
			}
			out := caAnswer{Cluster: cluster, CA: filepath.Join(dir, pki.CACertFile), Pin: pki.Pin(ca.Cert), NotAfter: ca.Cert.NotAfter.UTC()}
			return a.print(out, func(w io.Writer, _ bool) {
				pairs(w, "CA of cluster", out.Cluster, "certificate", out.CA, "pin", out.Pin, "valid until", out.NotAfter.Format(time.RFC3339))
				_, _ = fmt.Fprintf(w, "next: themis-cli pki issue --dir %s --node node-1 --datacenter dc1\n", dir)
			})
		},
	}
	dirFlag(cmd, &dir)
	fs := cmd.Flags()
	fs.StringVar(&cluster, "cluster", "", "the cluster that certificates are for: a DNS label")
	fs.StringVar(&name, "name", "", "common name of the CA; default: themis-cluster-ca")
	fs.StringVar(&algorithm, "algorithm", "", algorithmHelp)
	fs.IntVar(&days, "days", 3650, "how long the CA is valid")
	return cmd
}

const algorithmHelp = "of the key: ecdsa-p256 (default) or rsa-4096"

// caAnswer is the JSON of `pki init`.
type caAnswer struct {
	Cluster  string    `json:"cluster"`
	CA       string    `json:"ca_cert"`
	Pin      string    `json:"pin"` // of the CA's key, for newcomers
	NotAfter time.Time `json:"not_after"`
}

// issueFlags are those of `pki issue`.
type issueFlags struct {
	dir, out                         string
	node, client, cluster, clusterID string
	shard, datacenter, rack, role    string
	tokenStart, tokenEnd             uint32
	capabilities, dns, ips           []string
	loopback                         bool
	days                             int
	algorithm                        string
	caCert, caKey                    string
}

func pkiIssue(a *app) *cobra.Command {
	var f issueFlags
	cmd := &cobra.Command{
		Use: "issue (--node ID | --client NAME)", Short: "Make a key and a certificate",
		Long: `Make a private key (mode 0600) and a certificate for a node or a client: NAME.key and NAME.crt.

By default a node may read, write, replicate and administer, and a client may read and write.`,
		Example: "  themis-cli pki issue --node node-1 --datacenter dc1 --ip 10.0.0.1\n  themis-cli pki issue --client alice --capabilities read,write,admin",
		Args:    usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := f.request(cmd.Flags().Changed("capabilities"), cmd.Flags().Changed("days"))
			if err != nil {
				return err
			}
			return a.issue(f, r)
		},
	}
	dirFlag(cmd, &f.dir)
	fs := cmd.Flags()
	fs.StringVar(&f.out, "out", "", "another `DIR` for what is issued")
	fs.StringVar(&f.node, "node", "", "the node's id: a DNS label")
	fs.StringVar(&f.client, "client", "", "the client's name")
	fs.StringVar(&f.cluster, "cluster", "", "name of the cluster; default: the CA's")
	fs.StringVar(&f.clusterID, "cluster-id", "", "id of the cluster; holders of different ids refuse each other")
	fs.StringVar(&f.shard, "shard", "", "bind the certificate to one shard; default: none")
	fs.StringVar(&f.datacenter, "datacenter", "dc1", "of a node: a DNS label")
	fs.StringVar(&f.rack, "rack", "", "of a node")
	fs.StringVar(&f.role, "role", "", "active, hot_spare or controller; default: active, or client")
	fs.Uint32Var(&f.tokenStart, "token-start", 0, "first token of the range; with --token-end 0 the whole ring")
	fs.Uint32Var(&f.tokenEnd, "token-end", 0, "last token of the range")
	fs.StringSliceVar(&f.capabilities, "capabilities", nil, "some of read, write, replicate, admin")
	fs.StringSliceVar(&f.dns, "dns", nil, "further host names of a node")
	fs.StringSliceVar(&f.ips, "ip", nil, "addresses of a node")
	fs.BoolVar(&f.loopback, "loopback", false, "localhost, 127.0.0.1 and ::1 as well")
	fs.IntVar(&f.days, "days", 0, "how long it is valid; default: 365, or as long as the CA")
	fs.StringVar(&f.algorithm, "algorithm", "", algorithmHelp)
	fs.StringVar(&f.caCert, "ca-cert", "", "the CA's certificate, where it is not DIR/ca.crt")
	fs.StringVar(&f.caKey, "ca-key", "", "the CA's key, where it is not DIR/ca.key")
	return cmd
}

const mostDays = 36500 // a hundred years: a time of more than 292 can't be told apart from one of few

func (f issueFlags) request(capabilitiesGiven, daysGiven bool) (pki.Request, error) {
	r := pki.Request{
		Node: themis.NodeID(f.node), Client: f.client, Cluster: f.cluster, ClusterID: themis.ClusterID(f.clusterID), Shard: f.shard, Rack: f.rack, Role: f.role,
		TokenStart: themis.Token(f.tokenStart), TokenEnd: themis.Token(f.tokenEnd), Capabilities: f.capabilities, DNS: f.dns, Loopback: f.loopback,
		Valid: time.Duration(f.days) * day, Algorithm: pki.Algorithm(f.algorithm),
	}
	if (f.node == "") == (f.client == "") {
		return r, usage.Wrong("--node, --client: want exactly one of them")
	}
	if or(f.node, f.client)+".key" == pki.CAKeyFile {
		return r, usage.Wrong("--node, --client: %q is the name of the CA's own files", or(f.node, f.client))
	}
	if f.days < 0 || f.days > mostDays || daysGiven && f.days == 0 {
		return r, usage.Wrong("--days %d: want 1 to %d", f.days, mostDays)
	}
	if f.node != "" {
		r.Datacenter = f.datacenter
	}
	for _, text := range f.ips {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return r, usage.Wrong("--ip %q: want an IP address", text)
		}
		r.IPs = append(r.IPs, ip)
	}
	if !capabilitiesGiven {
		r.Capabilities = []string{pki.Read, pki.Write}
		if f.node != "" {
			r.Capabilities = []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}
		}
	}
	return r, nil
}

func (f issueFlags) ca() (*pki.CA, error) {
	if f.caCert != "" || f.caKey != "" {
		return pki.LoadCAFiles(or(f.caCert, filepath.Join(f.dir, pki.CACertFile)), or(f.caKey, filepath.Join(f.dir, pki.CAKeyFile)))
	}
	ca, err := pki.LoadCA(f.dir)
	if e, ok := errors.AsType[*themis.Error](err); ok && errors.Is(err, fs.ErrNotExist) && e.Fix == "" {
		return nil, e.Do("themis-cli pki init --dir %s --cluster NAME", f.dir)
	}
	return ca, err
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (a *app) issue(f issueFlags, r pki.Request) error {
	ca, err := f.ca()
	if err != nil {
		return err
	}
	issued, err := ca.Issue(r)
	if err != nil {
		return err
	}
	files := pki.FilesIn(or(f.out, f.dir), or(f.node, f.client))
	if _, err := os.Stat(files.Cert); err == nil {
		return themis.Errorf(themis.RefusedUnsafe, "%s is there already", files.Cert).Do("themis-cli pki renew %s, or another --out", files.Cert)
	}
	if _, err := os.Lstat(files.Key); err == nil { // of a holder whose certificate is elsewhere, or the CA's own
		return themis.Errorf(themis.RefusedUnsafe, "%s is there already: a private key is never overwritten", files.Key).Do("give another --out, or move it away")
	}
	if err := os.MkdirAll(filepath.Dir(files.Cert), 0o700); err != nil {
		return onDisk(err)
	}
	if err := issued.Save(withoutCA(files, f.dir)); err != nil {
		return onDisk(err)
	}
	return a.printIssued(files, issued)
}

// withoutCA leaves the CA's own ca.crt alone.
func withoutCA(files pki.Files, dir string) pki.Files {
	if filepath.Dir(files.CA) == filepath.Clean(dir) {
		files.CA = ""
	}
	return files
}

// issuedAnswer is the JSON of `pki issue` and `pki renew`.
type issuedAnswer struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
	CA   string `json:"ca_cert"`
	pki.Description
}

func (a *app) printIssued(files pki.Files, issued *pki.Issued) error {
	out := issuedAnswer{files.Cert, files.Key, files.CA, pki.Describe(issued.Cert)}
	return a.print(out, func(w io.Writer, _ bool) {
		pairs(w, "holder", issued.Info.String(), "certificate", out.Cert, "key", out.Key, "ca", out.CA, "capabilities", strings.Join(issued.Info.Capabilities, ","),
			"valid until", out.NotAfter.Format(time.RFC3339))
	})
}

// onDisk makes an error of the file system the user's to mend.
func onDisk(err error) error {
	if _, ours := errors.AsType[*themis.Error](err); ours || err == nil {
		return err
	}
	return themis.Errorf(themis.InvalidArgument, "%w", err)
}
