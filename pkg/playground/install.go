package playground

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	cliName    = "themis-cli"
	daemonName = "themisd"
	datacenter = "local"
)

// install puts the program that the nodes run below bin/, so that it stays when the original goes; of `go run` it always does. A
// themisd that stands beside this program serves only when it is of the very same build. It sets Binary and Args.
func (p *Playground) install(s *state) error {
	if err := os.MkdirAll(p.path(binDir), 0o700); err != nil {
		return themis.Errorf(themis.InvalidArgument, "install: %w", err)
	}
	if err := place(p.host.Binary, p.path(binDir, cliName)); err != nil {
		return err
	}
	s.Binary, s.Args = cliName, p.host.Args
	beside := filepath.Join(filepath.Dir(p.host.Binary), daemonName)
	if sameBuild(p.host.Binary, beside) {
		if err := place(beside, p.path(binDir, daemonName)); err != nil {
			return err
		}
		s.Binary, s.Args = daemonName, []string{}
	}
	return nil
}

// place makes to the program from: a hard link where that can be, else a copy.
func place(from, to string) (err error) {
	fresh := to + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return themis.Errorf(themis.InvalidArgument, "install %s: %w", to, err)
	}
	if err := os.Link(from, fresh); err != nil {
		if err := duplicate(from, fresh); err != nil {
			return themis.Errorf(themis.InvalidArgument, "install %s: %w", to, err)
		}
	}
	// Between two links to one file rename does nothing, and leaves the other name.
	if err := errors.Join(os.Rename(fresh, to), os.RemoveAll(fresh)); err != nil {
		return themis.Errorf(themis.InvalidArgument, "install %s: %w", to, err)
	}
	return nil
}

func duplicate(from, to string) error {
	in, err := os.Open(from) //nolint:gosec // this program
	if err != nil {
		return err
	}
	defer in.Close()                                                      //nolint:errcheck // only read from
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700) //nolint:gosec // a program is executable
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// sameBuild answers whether two programs were surely built from the same sources in the same way.
func sameBuild(a, b string) bool {
	one, err := buildinfo.ReadFile(a)
	if err != nil {
		return false
	}
	two, err := buildinfo.ReadFile(b)
	return err == nil && same(one, two)
}

// same compares two builds. Sources that were changed behind a commit, or of no known commit, may differ.
func same(one, two *buildinfo.BuildInfo) bool {
	setting := func(b *buildinfo.BuildInfo, key string) string {
		for _, s := range b.Settings {
			if s.Key == key {
				return s.Value
			}
		}
		return ""
	}
	return setting(one, "vcs.revision") != "" && setting(one, "vcs.modified") == "false" &&
		one.GoVersion == two.GoVersion && one.Main.Path == two.Main.Path && one.Main.Version == two.Main.Version && slices.Equal(one.Settings, two.Settings)
}

// certify makes the CA and the certificates.
func (p *Playground) certify(s *state) error {
	ca, err := pki.NewCA(pki.CAOptions{Cluster: s.Cluster})
	if err != nil {
		return err
	}
	if err := ca.Save(p.path(pkiDir)); err != nil {
		return err
	}
	admin := pki.Request{Client: adminName, Capabilities: []string{pki.Read, pki.Write, pki.Admin}}
	return p.issue(ca, append(requests(s.Nodes), admin))
}

// requests are what the nodes' certificates say.
func requests(nodes []member) []pki.Request {
	var out []pki.Request
	for _, m := range nodes {
		r := pki.Request{Node: m.ID, Datacenter: datacenter, Loopback: true, Role: pki.RoleActive, Capabilities: []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}}
		if m.Role == cluster.RoleHotSpare {
			r.Role = pki.RoleHotSpare
		}
		out = append(out, r)
	}
	return out
}

func (p *Playground) issue(ca *pki.CA, list []pki.Request) error {
	var saves errgroup.Group // each waits for the disk
	for _, r := range list {
		issued, err := ca.Issue(r)
		if err != nil {
			return errors.Join(err, saves.Wait())
		}
		files := pki.FilesIn(p.path(pkiDir), string(r.Node)+r.Client)
		files.CA = "" // it is there
		saves.Go(func() error { return issued.Save(files) })
	}
	return saves.Wait()
}

// configure writes the configuration of nodes.
func (p *Playground) configure(nodes []member) error {
	for _, m := range nodes {
		if err := os.MkdirAll(p.path(string(m.ID)), 0o700); err != nil {
			return themis.Errorf(themis.InvalidArgument, "configure %s: %w", m.ID, err)
		}
		text := []byte(p.configOf(m))
		name := p.path(string(m.ID), configName)
		cfg, err := config.Load([]config.Source{{Name: name, Data: text}}, nil, nil)
		if err == nil {
			err = cfg.CheckNode()
		}
		if err != nil {
			return fmt.Errorf("configure %s: %w", m.ID, err)
		}
		if err := replaceFile(name, text); err != nil {
			return err
		}
	}
	return nil
}

// configOf is themisd.yaml of a node. Quoted texts of Go are quoted texts of YAML.
func (p *Playground) configOf(m member) string {
	files := pki.FilesIn(p.path(pkiDir), string(m.ID))
	return fmt.Sprintf(`# %[1]s of the playground in %[2]s. Edits hold from the next start of the node.
node:
  id: %[1]s
  role: %[3]s
  data_dir: %[4]q
  datacenter: %[5]s
  grpc_listen: %[6]s
  http_listen: %[7]s
  metrics_listen: %[8]s
control:
  peer_listen: %[9]s
  client_listen: %[10]s
http:
  plain_loopback: full      # documents without TLS on loopback; nowhere but in a playground
pki:
  cert: %[11]q
  key: %[12]q
  ca: %[13]q
replication:
  timeout_ms: 1000          # all nodes share this machine's disk
`, m.ID, strings.ReplaceAll(p.Dir, "\n", " "), m.Role, p.path(string(m.ID), dataDir), datacenter,
		m.GRPC, m.HTTP, m.Metrics, m.Peer, m.Client, files.Cert, files.Key, files.CA)
}

// CLI is the path of themis-cli below bin/: it works wherever the program that made the playground was run from.
func (p *Playground) CLI() string { return p.path(binDir, cliName) }
