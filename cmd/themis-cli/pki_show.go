package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

func pkiRenew(a *app) *cobra.Command {
	var f issueFlags
	var newKey bool
	cmd := &cobra.Command{
		Use: "renew CERT", Short: "Issue a certificate again for the same holder",
		Long: `Issue a certificate again before it ends: the same holder, names, capabilities and extensions, the same key, new times.
The file is replaced, and a running node takes the new one into use within seconds. A client may get a new key; a node keeps its key,
since the cluster checks its ballots with it.`,
		Args: usage.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.dir == "" {
				f.dir = filepath.Dir(args[0])
			}
			return a.renew(cmd.Context(), f, args[0], newKey)
		},
	}
	cmd.Flags().StringVar(&f.dir, "dir", "", "the `DIR` of ca.crt and ca.key; default: that of the certificate")
	cmd.Flags().IntVar(&f.days, "days", 0, "how long it is valid; default: 365, or as long as the CA")
	cmd.Flags().BoolVar(&newKey, "new-key", false, "with a new key, clients only")
	return cmd
}

func (a *app) renew(ctx context.Context, f issueFlags, path string, newKey bool) error {
	certs, err := readCertificates(ctx, path)
	if err != nil {
		return err
	}
	r, err := renewal(certs[0])
	if err != nil {
		return err
	}
	switch {
	case f.days < 0 || f.days > mostDays:
		return usage.Wrong("--days %d: want 1 to %d", f.days, mostDays)
	case newKey && r.Node != "":
		return themis.Errorf(themis.RefusedUnsafe, "%s: the cluster checks the ballots of %s with its present key; with a new one it could not vote", path, r.Node).
			Do("themis-cli pki renew %s", path)
	case !newKey:
		r.PublicKey = certs[0].PublicKey
	}
	r.Valid = time.Duration(f.days) * day
	ca, err := f.ca()
	if err != nil {
		return err
	}
	issued, err := ca.Issue(r)
	if err != nil {
		return err
	}
	files := pki.FilesIn(filepath.Dir(path), strings.TrimSuffix(filepath.Base(path), ".crt"))
	files.Cert = path
	save := files
	save.CA = ""
	if err := issued.Save(save); err != nil {
		return onDisk(err)
	}
	return a.printIssued(files, issued)
}

// renewal asks for a certificate that says what the old one says.
func renewal(old *x509.Certificate) (pki.Request, error) {
	info, err := pki.ParseInfo(old)
	if err != nil {
		return pki.Request{}, themis.Errorf(themis.InvalidArgument, "the certificate can't be renewed: %w", err)
	}
	r := pki.Request{
		Node: info.Node, Client: info.Client, Cluster: info.Cluster, ClusterID: info.ClusterID, Shard: info.ShardText, Datacenter: info.Datacenter, Rack: info.Rack,
		TokenStart: info.TokenStart, TokenEnd: info.TokenEnd, Capabilities: info.Capabilities, Role: info.Role,
	}
	for _, name := range old.DNSNames {
		if !strings.HasSuffix(name, ".themis.internal") { // those are made from the cluster's name
			r.DNS = append(r.DNS, name)
		}
	}
	for _, ip := range old.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			r.IPs = append(r.IPs, addr.Unmap())
		}
	}
	return r, nil
}

func readCertificates(ctx context.Context, path string) ([]*x509.Certificate, error) {
	b, err := readLimited(ctx, path, 1<<20)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(b)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "%s: %w", path, err)
	}
	return certs, nil
}

func pkiShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show CERT…", Short: "Show what certificates say", Args: usage.AtLeast(1),
		Long: "Show what certificates say: holder, names, capabilities, the seven extensions, times. Exit code 1 when one can't serve as an identity, or not now.",
		RunE: func(cmd *cobra.Command, args []string) error {
			out := []shownAnswer{}
			for _, path := range args {
				certs, err := readCertificates(cmd.Context(), path)
				if err != nil {
					return err
				}
				for _, c := range certs {
					d := pki.Describe(c)
					s := shownAnswer{File: path, Valid: validity(c, time.Now()), Description: d}
					if d.Problem != "" || s.Valid != "now" {
						a.answer(themis.ExitFailed)
					}
					out = append(out, s)
				}
			}
			return a.print(out, func(w io.Writer, wide bool) {
				for i, s := range out {
					if i > 0 {
						_, _ = fmt.Fprintln(w)
					}
					showCertificate(w, s, wide)
				}
			})
		},
	}
}

// shownAnswer is one entry of the JSON of `pki show`.
type shownAnswer struct {
	File  string `json:"file"`
	Valid string `json:"valid"` // now, expired, not_yet
	pki.Description
}

func validity(c *x509.Certificate, now time.Time) string {
	switch {
	case now.After(c.NotAfter):
		return "expired"
	case now.Before(c.NotBefore):
		return "not_yet"
	}
	return "now"
}

func showCertificate(w io.Writer, s shownAnswer, wide bool) {
	list := []string{"file", s.File, "subject", s.Subject, "issuer", s.Issuer, "serial", s.Serial}
	switch {
	case s.CA:
		list = append(list, "holder", "a CA", "pin", s.Fingerprint)
	case s.Info != nil:
		list = append(list, "holder", s.Info.String(), "role", s.Info.Role, "capabilities", dash(strings.Join(s.Info.Capabilities, ",")))
	default:
		list = append(list, "problem", s.Problem)
	}
	list = append(list, "valid", fmt.Sprintf("%s: %s to %s", s.Valid, s.NotBefore.Format(time.RFC3339), s.NotAfter.Format(time.RFC3339)),
		"names", dash(strings.Join(slices.Concat(s.DNS, s.IPs), ", ")))
	if wide {
		list = append(list, "uris", dash(strings.Join(s.URIs, ", ")), "key", s.KeyAlgorithm, "fingerprint", s.Fingerprint)
	}
	pairs(w, list...)
	if !wide || len(s.Extensions) == 0 {
		return
	}
	var rows [][]string
	for _, e := range s.Extensions {
		rows = append(rows, []string{e.OID, e.Name, e.Type, e.Value, dash(e.Problem)})
	}
	_, _ = fmt.Fprintln(w)
	columns(w, "OID EXTENSION TYPE VALUE PROBLEM", rows)
}
