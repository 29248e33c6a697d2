package pki

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// needOpenSSL skips where there is no openssl, unless THEMIS_REQUIRE_OPENSSL demands it.
func needOpenSSL(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err == nil {
		return
	}
	if os.Getenv("THEMIS_REQUIRE_OPENSSL") != "" {
		t.Fatal("openssl is not installed, and THEMIS_REQUIRE_OPENSSL is set")
	}
	t.Skip("openssl is not installed")
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	out, err := tryRun(dir, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func tryRun(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...) //nolint:gosec // the test's own commands
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// realCA lives now, as openssl does.
func realCA(t *testing.T) (*CA, string) {
	t.Helper()
	ca := must(NewCA(CAOptions{Cluster: "prod-cluster"}))(t)
	dir := t.TempDir()
	ok(t, ca.Save(dir))
	return ca, dir
}

// The request of the oldest clusters: no IP address, no usage, no node URI, the shard's id as it was typed.
const oldRequest = `[ req ]
default_bits = 2048
prompt = no
default_md = sha256
distinguished_name = dn
req_extensions = v3_req

[ dn ]
CN = shard-001.dc1.themis.local
O = ThemisDB Cluster
OU = Sharding

[ v3_req ]
subjectAltName = @alt_names
1.2.3.4.5.6.7.8.1 = ASN1:UTF8String:001
1.2.3.4.5.6.7.8.2 = ASN1:UTF8String:dc1
1.2.3.4.5.6.7.8.3 = ASN1:UTF8String:rack01
1.2.3.4.5.6.7.8.4 = ASN1:INTEGER:0
1.2.3.4.5.6.7.8.5 = ASN1:INTEGER:4294967295
1.2.3.4.5.6.7.8.6 = ASN1:UTF8String:read,write,replicate,admin
1.2.3.4.5.6.7.8.7 = ASN1:UTF8String:primary

[ alt_names ]
DNS.1 = shard-001.dc1.themis.local
DNS.2 = shard-001.dc1.internal
URI.1 = urn:themis:shard:prod-cluster:001
`

func TestReadsCertificatesOfOpenSSL(t *testing.T) {
	needOpenSSL(t)
	dir := t.TempDir()
	run(t, dir, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=themis-cluster-ca", "-days", "30")
	writeFile(t, dir, "shard-001.conf", []byte(oldRequest), 0o600)
	run(t, dir, "openssl", "genrsa", "-out", "shard-001.key", "2048")
	run(t, dir, "openssl", "req", "-new", "-key", "shard-001.key", "-out", "shard-001.csr", "-config", "shard-001.conf")
	run(t, dir, "openssl", "x509", "-req", "-in", "shard-001.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "shard-001.crt",
		"-days", "20", "-sha256", "-extfile", "shard-001.conf", "-extensions", "v3_req")
	ok(t, os.Chmod(filepath.Join(dir, "shard-001.key"), 0o600))

	old := openSource(t, FilesIn(dir, "shard-001"), Options{})
	info := old.Info()
	info.Serial, info.Fingerprint, info.NotBefore, info.NotAfter = "", "", time.Time{}, time.Time{}
	want := Info{
		Kind: KindNode, Node: "shard-001", Cluster: "prod-cluster", Shard: "shard-1", ShardText: "001", Datacenter: "dc1", Rack: "rack01",
		TokenEnd: 4294967295, Capabilities: []string{Read, Write, Replicate, Admin}, Role: RolePrimary,
	}
	if !reflect.DeepEqual(info, want) {
		t.Errorf("info %+v\nwant %+v", info, want)
	}

	// openssl's CA signs with ours, and a new node talks to the old one in both directions.
	ca := must(LoadCA(dir))(t)
	_, err := ca.Issue(nodeRequest("node-2"))
	wantCode(t, err, themis.InvalidArgument) // such a CA names no cluster
	r := nodeRequest("node-2")
	r.Cluster, r.Valid = "prod-cluster", time.Hour
	node := newSource(t, ca, r, Options{})
	for _, c := range []struct {
		server, client *Source
		node           themis.NodeID
		host           string
	}{{old, node, "shard-001", ""}, {old, node, "", "shard-001.dc1.internal"}, {node, old, "node-2", ""}} {
		if _, sErr, cErr := handshake(t, c.server.ServerConfig(), c.client.ClientConfig(c.node, c.host)); sErr != nil || cErr != nil {
			t.Errorf("server %v, client %v", sErr, cErr)
		}
	}
	sig := must(old.Sign([]byte("ballot")))(t)
	ok(t, Verify(old.PublicKey(), []byte("ballot"), sig))
}

func TestOpenSSLReadsOurCertificates(t *testing.T) {
	needOpenSSL(t)
	ca, dir := realCA(t)
	r := nodeRequest("node-1")
	r.Shard = "shard-7"
	issued := must(ca.Issue(r))(t)
	ok(t, issued.Save(FilesIn(dir, "node-1")))
	client := must(ca.Issue(Request{Client: "ann", Capabilities: []string{Read}}))(t)
	ok(t, client.Save(FilesIn(dir, "ann")))

	text := run(t, dir, "openssl", "x509", "-in", "node-1.crt", "-noout", "-text")
	for _, want := range []string{
		"OU = prod-cluster, CN = themis-cluster-ca", "node-1.dc1.themis.local", "URI:urn:themis:shard:prod-cluster:7", "URI:urn:themis:node:prod-cluster:node-1",
		"DNS:node.prod-cluster.themis.internal", "IP Address:127.0.0.1", "TLS Web Server Authentication, TLS Web Client Authentication",
		"1.2.3.4.5.6.7.8.1: \n", "1.2.3.4.5.6.7.8.7: \n", "read,write,replicate,admin",
	} {
		if !strings.Contains(strings.ReplaceAll(text, "CN=", "CN = "), want) {
			t.Errorf("openssl does not show %q:\n%s", want, text)
		}
	}
	// Each value as openssl decodes it.
	for n, want := range map[int]string{1: "UTF8STRING        :shard-7", 4: "INTEGER           :00", 5: "INTEGER           :FFFFFFFF", 7: "UTF8STRING        :active"} {
		value := writeFile(t, dir, "value", extensionOf(issued, n), 0o600)
		if got := run(t, dir, "openssl", "asn1parse", "-inform", "DER", "-in", value); !strings.Contains(got, want) {
			t.Errorf("extension %d: openssl reads %s, want %s", n, got, want)
		}
	}

	if got := run(t, dir, "openssl", "x509", "-in", "node-1.crt", "-noout", "-serial"); got != "serial="+issued.Info.Serial+"\n" {
		t.Errorf("openssl writes the serial as %q, we as %q", got, issued.Info.Serial)
	}
	run(t, dir, "openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "-purpose", "sslserver", "-verify_hostname", "node-1.dc1.internal", "node-1.crt")
	run(t, dir, "openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "-purpose", "sslclient", "node-1.crt")
	run(t, dir, "openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "-purpose", "sslclient", "ann.crt")
	if out, err := tryRun(dir, "openssl", "verify", "-CAfile", "ca.crt", "-purpose", "sslserver", "ann.crt"); err == nil {
		t.Errorf("a client passes for a server: %s", out)
	}

	writeFile(t, dir, "crl.pem", must(ca.Revoke(nil, 0, client.Cert.SerialNumber))(t), 0o644)
	run(t, dir, "openssl", "verify", "-CAfile", "ca.crt", "-crl_check", "-CRLfile", "crl.pem", "node-1.crt")
	if out, err := tryRun(dir, "openssl", "verify", "-CAfile", "ca.crt", "-crl_check", "-CRLfile", "crl.pem", "ann.crt"); err == nil || !strings.Contains(out, "revoked") {
		t.Errorf("openssl does not see the revocation: %s", out)
	}

	_, csr, err := NewCSR("node-3")
	ok(t, err)
	writeFile(t, dir, "node-3.csr", csr, 0o600)
	run(t, dir, "openssl", "req", "-in", "node-3.csr", "-noout", "-verify")
}

func extensionOf(i *Issued, n int) []byte {
	for _, e := range i.Cert.Extensions {
		if e.Id.Equal(append(slices.Clone(arc), n)) {
			return e.Value
		}
	}
	return nil
}

func scriptPath(t *testing.T) string {
	t.Helper()
	return must(filepath.Abs("../../docs/examples/generate_shard_cert.sh"))(t)
}

func TestScript(t *testing.T) {
	needOpenSSL(t)
	ca, dir := realCA(t)
	out := run(t, dir, "bash", scriptPath(t), "--bits", "2048", "001", "dc1", "rack01", "0", "4294967295")
	if out != "Generated certificate: shard-001.crt\n" {
		t.Errorf("output %q", out)
	}
	for name, mode := range map[string]os.FileMode{"shard-001.key": 0o600, "shard-001.conf": 0, "shard-001.csr": 0, "shard-001.crt": 0, "ca.srl": 0} {
		info := must(os.Stat(filepath.Join(dir, name)))(t)
		if mode != 0 && info.Mode().Perm() != mode {
			t.Errorf("mode of %s is %04o", name, info.Mode().Perm())
		}
	}
	plain := parseOne(t, must(os.ReadFile(filepath.Join(dir, "shard-001.crt")))(t))
	info := must(ParseInfo(plain))(t)
	if info.ShardText != "001" || info.Shard != "shard-1" || info.Node != "shard-001" || info.Cluster != "prod-cluster" || info.Role != RolePrimary ||
		len(info.Capabilities) != 4 || info.TokenEnd != 4294967295 || plain.Subject.CommonName != "shard-001.dc1.themis.local" {
		t.Errorf("info %+v of %s", info, plain.Subject)
	}

	out = run(t, t.TempDir(), "bash", scriptPath(t), "--bits", "2048", "--cluster", "test", "--node", "node-4", "--capabilities", "read,replicate", "--role", "replica",
		"--ip", "10.0.1.10", "--ip", "fd00::1", "--dns", "db.example.org", "--days", "7", "--organization", "Example Org", "--unit", "Storage",
		"--out", dir, "shard_002", "DC2", "rack-9", "128", "255")
	if out != "Generated certificate: shard-002.crt\n" {
		t.Errorf("output %q", out)
	}
	cert := parseOne(t, must(os.ReadFile(filepath.Join(dir, "shard-002.crt")))(t))
	info = must(ParseInfo(cert))(t)
	if info.ShardText != "shard_002" || info.Shard != "shard-2" || info.Node != "node-4" || info.Cluster != "test" || info.Role != RoleReplica || info.Datacenter != "DC2" ||
		!slices.Equal(info.Capabilities, []string{Read, Replicate}) || info.TokenStart != 128 || info.TokenEnd != 255 || info.Rack != "rack-9" {
		t.Errorf("info %+v", info)
	}
	for _, host := range []string{"node-4", "node-4.dc2.themis.local", "node-4.dc2.internal", "db.example.org", "10.0.1.10", "fd00::1", NodeName("test")} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if got := cert.Subject.String(); got != "CN=node-4.dc2.themis.local,OU=Storage,O=Example Org" {
		t.Errorf("subject %s", got)
	}
	if days := cert.NotAfter.Sub(cert.NotBefore); days != 7*24*time.Hour {
		t.Errorf("valid for %s", days)
	}
	// It serves and dials as any other.
	source := openSource(t, FilesIn(dir, "shard-001"), Options{})
	r := nodeRequest("node-5")
	node := newSource(t, ca, r, Options{})
	if _, sErr, cErr := handshake(t, source.ServerConfig(), node.ClientConfig("shard-001", "")); sErr != nil || cErr != nil {
		t.Errorf("server %v, client %v", sErr, cErr)
	}
}

func TestScriptRefuses(t *testing.T) {
	needOpenSSL(t)
	_, dir := realCA(t)
	good := []string{"001", "dc1", "rack01", "0", "4294967295"}
	with := func(i int, text string) []string {
		args := slices.Clone(good)
		args[i] = text
		return args
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{good[:4], "want 5 arguments, got 4"},
		{with(0, "0"), "SHARD_ID '0'"},
		{with(0, "1\nkeyUsage = keyCertSign"), "SHARD_ID"},
		{with(1, "dc1\nbasicConstraints = CA:TRUE"), "DATACENTER"},
		{with(2, "$(id)"), "RACK"},
		{with(3, "-1"), "TOKEN_START"},
		{with(3, "9999999999"), "TOKEN_START 9999999999: above TOKEN_END"},
		{with(4, "4294967296"), "TOKEN_END 4294967296: at most"},
		{append([]string{"--capabilities", "read,root"}, good...), "--capabilities 'read,root'"},
		{append([]string{"--role", "king"}, good...), "--role 'king'"},
		{append([]string{"--dns", "*.example.org"}, good...), "--dns '*.example.org'"},
		{append([]string{"--dns", "node.other.themis.internal"}, good...), "--dns"},
		{append([]string{"--bits", "1024"}, good...), "at least 2048"},
		{append([]string{"--speed", "9"}, good...), "unknown flag --speed"},
		{append([]string{"--ca-cert", "gone.crt"}, good...), "gone.crt: not there"},
		{[]string{"--role"}, "--role: needs a value"},
	} {
		out, err := tryRun(dir, "bash", append([]string{scriptPath(t)}, c.args...)...)
		exit, _ := err.(*exec.ExitError) //nolint:errorlint // exec returns it bare
		if exit == nil || exit.ExitCode() != 2 || !strings.Contains(out, c.want) {
			t.Errorf("%q: %v, %s; want exit 2 and %q", c.args, err, out, c.want)
		}
	}
	if left := must(filepath.Glob(filepath.Join(dir, "shard-*")))(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDescribe(t *testing.T) {
	ca := newTestCA(t, "prod", newClock())
	issued := must(ca.Issue(Request{Node: "node-1", Shard: "shard_001", Datacenter: "dc1", Rack: "rack01", Capabilities: []string{Read, Write}}))(t)
	d := Describe(issued.Cert)
	var drawn bytes.Buffer
	for _, e := range d.Extensions {
		fmt.Fprintf(&drawn, "%s %s %s %q present=%v critical=%v %s\n", e.OID, e.Name, e.Type, e.Value, e.Present, e.Critical, e.Problem)
	}
	want := `1.2.3.4.5.6.7.8.1 shardId UTF8String "shard_001" present=true critical=false 
1.2.3.4.5.6.7.8.2 datacenter UTF8String "dc1" present=true critical=false 
1.2.3.4.5.6.7.8.3 rack UTF8String "rack01" present=true critical=false 
1.2.3.4.5.6.7.8.4 tokenRangeStart INTEGER "0" present=true critical=false 
1.2.3.4.5.6.7.8.5 tokenRangeEnd INTEGER "4294967295" present=true critical=false 
1.2.3.4.5.6.7.8.6 capabilities UTF8String "read,write" present=true critical=false 
1.2.3.4.5.6.7.8.7 role UTF8String "active" present=true critical=false 
`
	if drawn.String() != want {
		t.Errorf("extensions\n%swant\n%s", drawn.String(), want)
	}
	if d.Info == nil || d.Info.Node != "node-1" || d.Problem != "" || d.CA || d.KeyAlgorithm != "ECDSA" || d.Fingerprint != Fingerprint(issued.Cert) ||
		!slices.Equal(d.ExtendedKeyUsage, []string{"serverAuth", "clientAuth"}) || !slices.Equal(d.KeyUsage, []string{"digitalsignature"}) {
		t.Errorf("description %+v", d)
	}
	if d := Describe(ca.Cert); !d.CA || len(d.Extensions) > 0 || d.Problem != "" || d.Fingerprint != Pin(ca.Cert) {
		t.Errorf("the CA: %+v", d)
	}

	// A broken one is described all the same: what is there, and why it can't serve.
	broken := *issued.Cert
	broken.Extensions = slices.Clone(broken.Extensions)
	for i, e := range broken.Extensions {
		switch {
		case e.Id.Equal(append(slices.Clone(arc), 3)):
			broken.Extensions[i].Value = []byte{12, 1, 27}
		case e.Id.Equal(append(slices.Clone(arc), 5)):
			broken.Extensions[i].Value = []byte{1}
		case e.Id.Equal(append(slices.Clone(arc), 7)):
			broken.Extensions[i].Id = arc
		}
	}
	d = Describe(&broken)
	if d.Info != nil || d.Problem == "" || d.Extensions[2].Problem != "unprintable characters" || d.Extensions[4].Problem == "" || d.Extensions[6].Problem != "missing" {
		t.Errorf("description of a broken one %+v", d)
	}
	if b := must(json.Marshal(d))(t); !bytes.Contains(b, []byte(`"info":null`)) || bytes.Contains(b, []byte(`\u001b`)) && !bytes.Contains(b, []byte(`\\x1b`)) {
		t.Errorf("json %s", b)
	}
}
