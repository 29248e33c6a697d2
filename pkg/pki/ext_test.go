package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

var example = identity{
	shard: "shard_001", datacenter: "dc1", rack: "rack01", start: 0, end: 4294967295,
	capabilities: []string{Read, Write, Replicate, Admin}, role: RolePrimary,
}

func TestExtensionsReadBack(t *testing.T) {
	for _, id := range []identity{
		example,
		{shard: AnyShard, role: RoleClient},
		{shard: "1", datacenter: "münchen", rack: "Ost 3", start: 128, end: 128, capabilities: []string{"later_word"}, role: "r"},
	} {
		exts := must(id.encode())(t)
		if got := must(decodeIdentity(exts))(t); !reflect.DeepEqual(got, id) {
			t.Errorf("read back %+v, want %+v", got, id)
		}
	}
}

func TestExtensionsRefused(t *testing.T) {
	utf8 := func(s string) []byte { return must(asn1.MarshalWithParams(s, "utf8"))(t) }
	integer := func(s string) []byte {
		n, _ := new(big.Int).SetString(s, 0)
		return must(asn1.Marshal(n))(t)
	}
	for _, c := range []struct {
		name  string
		n     int // the extension
		value []byte
		want  string
	}{
		{"missing", 3, nil, "1.2.3.4.5.6.7.8.3 (rack): missing"},
		{"empty", 2, []byte{}, "(datacenter): no DER value"},
		{"trailing bytes", 1, append(utf8("001"), 0), "(shardId): 1 bytes behind"},
		{"trailing bytes behind an integer", 4, append(integer("7"), 1, 2), "(tokenRangeStart): 2 bytes behind"},
		{"raw text", 1, []byte("001"), "(shardId)"},
		{"another string type", 7, must(asn1.MarshalWithParams("primary", "printable"))(t), "(role): want UTF8String, found ASN.1 tag 19"},
		{"text for a number", 5, utf8("4294967295"), "(tokenRangeEnd): want INTEGER, found ASN.1 tag 12"},
		{"a list of capabilities", 6, must(asn1.Marshal([]string{"read"}))(t), "(capabilities): want UTF8String"},
		{"not UTF-8", 2, []byte{12, 2, 0xc3, 0x28}, "(datacenter): not valid UTF-8"},
		{"control characters", 3, utf8("rack\x1b[2J"), "(rack): \"rack\\x1b[2J\": unprintable"},
		{"long", 3, utf8(strings.Repeat("x", 257)), "(rack): 257 bytes"},
		{"negative", 4, integer("-1"), "(tokenRangeStart): -1: want 0 to 4294967295"},
		{"33 bits", 5, integer("4294967296"), "(tokenRangeEnd): 4294967296: want"},
		{"64 bits", 5, integer("0xFFFFFFFFFFFFFFFF"), "(tokenRangeEnd): 18446744073709551615: want"},
		{"200 bits", 5, integer("0x1" + strings.Repeat("0", 50)), "(tokenRangeEnd): an integer of 201 bits"},
		{"padded integer", 4, []byte{2, 2, 0, 1}, "(tokenRangeStart): no DER integer"},
		{"end below start", 4, integer("4294967295"), ""},
		{"shard 0", 1, utf8("shard-0"), "(shardId): shard \"shard-0\""},
		{"no shard", 1, utf8(""), "(shardId)"},
		{"no role", 7, utf8(""), "(role): \"\""},
		{"empty capability", 6, utf8("read,,write"), "(capabilities): \"read,,write\""},
		{"blanks", 6, utf8("read, write"), "(capabilities)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := example
			if c.name == "end below start" {
				id.end, c.want = 1, "(tokenRangeEnd): 1 is below tokenRangeStart 4294967295"
			}
			exts := must(id.encode())(t)
			if c.value == nil {
				exts = slices.Delete(exts, c.n-1, c.n)
			} else {
				exts[c.n-1].Value = c.value
			}
			_, err := decodeIdentity(exts)
			if !errors.Is(err, ErrExtension) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
	exts := must(example.encode())(t)
	if _, err := decodeIdentity(append(exts, exts[6])); !errors.Is(err, ErrExtension) || !strings.Contains(err.Error(), "there twice") {
		t.Errorf("twice: %v", err)
	}
}

func TestURIs(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	base := must(ca.Issue(Request{Node: "shard-001", Shard: "001", Datacenter: "dc1"}))(t).Cert
	for _, c := range []struct {
		name string
		uris string
		want string // who, or a part of the error
		fail bool
	}{
		{"node and shard", "urn:themis:node:prod:node-1 urn:themis:shard:prod:1", "node-1", false},
		{"script: node from the common name", "urn:themis:shard:prod:001", "shard-001", false},
		{"client", "urn:themis:client:prod:ann urn:themis:shard:prod:1", "ann", false},
		{"others passed over", "https://example.org/a urn:uuid:1 urn:themis:later:x:y:z urn:themis:node:prod:node-1", "node-1", false},
		{"none", "https://example.org", "names no cluster", true},
		{"node and client", "urn:themis:node:prod:node-1 urn:themis:client:prod:ann", "both node node-1 and client ann", true},
		{"two nodes", "urn:themis:node:prod:node-1 urn:themis:node:prod:node-2", "a second one", true},
		{"two clusters", "urn:themis:node:prod:node-1 urn:themis:shard:test:1", "cluster test, another URI says prod", true},
		{"another shard", "urn:themis:node:prod:node-1 urn:themis:shard:prod:2", "the URI is of shard-2", true},
		{"too few parts", "urn:themis:node:prod", "want 5 parts", true},
		{"too many parts", "urn:themis:node:prod:node-1:x", "want 5 parts", true},
		{"query", "urn:themis:node:prod:node-1?x=1", "want 5 parts", true},
		{"fragment", "urn:themis:node:prod:node-1#x", "want 5 parts", true},
		{"bad cluster", "urn:themis:node:Prod:node-1", "cluster \"Prod\"", true},
		{"escaped node", "urn:themis:node:prod:node%2D1", "node \"node%2D1\"", true},
		{"bad client", "urn:themis:client:prod:", "client \"\"", true},
		{"bad shard", "urn:themis:shard:prod:zero", "shard \"zero\"", true},
		{"bad cluster id", "urn:themis:cluster:%20 urn:themis:node:prod:node-1", "not a cluster id", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert := *base
			cert.URIs = nil
			for _, s := range strings.Fields(c.uris) {
				cert.URIs = append(cert.URIs, must(url.Parse(s))(t))
			}
			info, err := ParseInfo(&cert)
			switch {
			case c.fail && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want one that says %q", err, c.want)
			case !c.fail && (err != nil || info.Name() != c.want || info.Cluster != "prod"):
				t.Errorf("info %+v, error %v, want %s of prod", info, err, c.want)
			}
		})
	}
	t.Run("common name of another datacenter", func(t *testing.T) {
		cert := *base
		cert.URIs = []*url.URL{urn("shard", "prod", "1")}
		cert.Subject.CommonName = "shard-001.dc2.themis.local"
		if _, err := ParseInfo(&cert); err == nil {
			t.Error("accepted")
		}
	})
}

func TestCapabilities(t *testing.T) {
	with := func(capabilities ...string) Info { return Info{Capabilities: capabilities} }
	for _, c := range []struct {
		operation string
		info      Info
		want      bool
	}{
		{"read", with(Read), true},
		{"read", with(Write, Replicate, Admin), false},
		{"write", with(Write), true},
		{"write", with(Read, Admin), false},
		{"replicate", with(Replicate), true},
		{"replicate", with(Write), true},
		{"replicate", with(Read, Admin), false},
		{"append_entries", with(Replicate), true},
		{"append_entries", with(Write), false},
		{"request_vote", with(Replicate), true},
		{"migrate", with(Admin), true},
		{"migrate", with(Read, Write, Replicate), false},
		{"prepare", with(Write), true},
		{"commit", with(Read), false},
		{"health", with(), true},
		{"gossip", with(), true},
		{"drop_everything", with(Read, Write, Replicate, Admin), false},
		{"", with(Read, Write, Replicate, Admin), false},
	} {
		if got := c.info.May(c.operation); got != c.want {
			t.Errorf("May(%q) with %v is %v", c.operation, c.info.Capabilities, got)
		}
	}
	// C-06: an rpc that replicates asks for the capability itself.
	if with(Write).Has(Replicate) || !with(Read, Replicate).Has(Replicate) || with("replicate,admin").Has(Admin) {
		t.Error("Has")
	}
}

func FuzzExtensions(f *testing.F) {
	pack := func(exts []pkix.Extension) (b []byte) {
		for _, e := range exts {
			b = append(append(b, byte(e.Id[len(e.Id)-1]), byte(len(e.Value))), e.Value...)
		}
		return b
	}
	good := must(example.encode())(f)
	f.Add(pack(good))
	f.Add(pack(good)[:20])
	f.Add(append(pack(good), 1, 1, 12))
	f.Fuzz(func(t *testing.T, b []byte) {
		var exts []pkix.Extension
		for len(b) >= 2 && len(b)-2 >= int(b[1]) {
			exts = append(exts, pkix.Extension{Id: append(arc[:len(arc):len(arc)], int(b[0])), Value: b[2 : 2+int(b[1])]})
			b = b[2+int(b[1]):]
		}
		id, err := decodeIdentity(exts)
		if err != nil {
			return
		}
		for _, again := range must(id.encode())(t) {
			i := slices.IndexFunc(exts, func(e pkix.Extension) bool { return e.Id.Equal(again.Id) })
			if !bytes.Equal(again.Value, exts[i].Value) {
				t.Fatalf("%s changed on the way: %x became %x", again.Id, exts[i].Value, again.Value)
			}
		}
	})
}

func FuzzParseInfo(f *testing.F) {
	clk := newClock()
	ca := newTestCA(f, "prod", clk)
	f.Add(must(ca.Issue(nodeRequest("node-1")))(f).Cert.Raw)
	f.Add(must(ca.Issue(Request{Client: "ann", ClusterID: "c1", Shard: "3"}))(f).Cert.Raw)
	f.Add(ca.Cert.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		Describe(cert)
		info, err := ParseInfo(cert)
		if err != nil {
			return
		}
		if (info.Node == "") == (info.Client == "") || info.Cluster == "" || info.TokenStart > info.TokenEnd {
			t.Fatalf("%+v", info)
		}
		if info.Node != "" {
			ok(t, themis.CheckNode(string(info.Node)))
		}
	})
}

func FuzzParseCRL(f *testing.F) {
	clk := newClock()
	ca := newTestCA(f, "prod", clk)
	f.Add(must(ca.Revoke(nil, 0, big.NewInt(77)))(f))
	f.Add([]byte("-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"))
	f.Add(must(hex.DecodeString("3000"))(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseCRL(data, []*x509.Certificate{ca.Cert})
		if err == nil && len(list.lists) == 0 {
			t.Fatal("accepted without a list")
		}
	})
}
