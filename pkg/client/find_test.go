package client

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// home gives the test a user of its own, without contexts and playgrounds, and answers where a playground with a name would be.
func home(t *testing.T) func(name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, v := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(v, dir)
	}
	t.Setenv("USER", "tester")
	return func(name string) string {
		pg := filepath.Join(dir, name)
		p := Playground{Cluster: name, CA: filepath.Join(pg, "pki", "ca.crt"), Cert: "cert of " + name, Key: "key", Nodes: []PlaygroundNode{{GRPC: name + ":1"}}}
		b, err := json.Marshal(p)
		if err == nil {
			err = os.MkdirAll(pg, 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(pg, PlaygroundFile), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return pg
	}
}

// TestFind: which cluster is meant when several are named, by flags, variables and habit.
func TestFind(t *testing.T) {
	made := home(t)
	one, cached := made("one"), made(filepath.Join("themis", "playground"))
	d, err := UserContexts()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Context{
		"far": {Cluster: "prod", Endpoints: []string{"far"}, CA: "ca", Cert: "cert of far", Key: "k"},
		"pg":  {Cluster: "one", Endpoints: []string{"one:1"}, CA: filepath.Join(one, "pki", "ca.crt"), Cert: "cert of pg", Key: "k"},
	} {
		if err := d.Save(name, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(d.Dir, currentFile)); err != nil {
		t.Fatal(err)
	}
	env := func(kv ...string) map[string]string {
		out := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = kv[i+1]
		}
		return out
	}
	cases := []struct {
		name    string
		wish    Wish
		env     map[string]string
		current string
		where   string // endpoints and certificate, or the error
		dir     string // of the playground
	}{
		{"nothing is named", Wish{}, nil, "", "themis/playground:1 cert of themis/playground", cached},
		{"the current context", Wish{}, nil, "far", "far:50051 cert of far", cached},
		{"the current context is a playground's", Wish{}, nil, "pg", "one:1 cert of pg", one},
		{"--playground over the current context", Wish{Playground: one}, nil, "far", "one:1 cert of one", one},
		{"--context over a variable", Wish{Context: "far"}, env("THEMIS_PLAYGROUND", one), "", "far:50051 cert of far", `it is not that of a playground`},
		{"--context of a playground", Wish{Context: "pg"}, nil, "far", "one:1 cert of pg", one},
		{"--endpoint keeps the certificate of --context", Wish{Context: "far", Endpoints: []string{"near:7"}}, nil, "", "near:7 cert of far", `it is not that of a playground`},
		{"--endpoint alone needs a certificate", Wish{Endpoints: []string{"near"}}, nil, "pg", "--cacert, --cert and --key", one},
		{"--cert goes over it", Wish{Context: "far", Cert: "mine"}, env("THEMIS_CERT", "theirs"), "", "far:50051 mine", `it is not that of a playground`},
		{"$THEMIS_ENDPOINT comes first", Wish{}, env("THEMIS_ENDPOINT", "a,b:2", "THEMIS_CONTEXT", "far", "THEMIS_CACERT", "ca", "THEMIS_CERT", "c", "THEMIS_KEY", "k"), "", "a:50051,b:2 c", `it is not that of a playground`},
		{"$THEMIS_PLAYGROUND over $THEMIS_CONTEXT", Wish{}, env("THEMIS_PLAYGROUND", one, "THEMIS_CONTEXT", "far"), "", "one:1 cert of one", one},
		{"$THEMIS_CONTEXT over the current one", Wish{}, env("THEMIS_CONTEXT", "far"), "pg", "far:50051 cert of far", `it is not that of a playground`},
		{"--cluster is a context", Wish{Cluster: "far"}, nil, "pg", "far:50051 cert of far", one},
		{"--cluster is a context's cluster", Wish{Cluster: "prod"}, nil, "pg", "far:50051 cert of far", one},
		{"--cluster is neither", Wish{Cluster: "nothing"}, nil, "pg", "one:1 cert of pg", one},
		{"two clusters", Wish{Playground: one, Context: "far"}, nil, "", "name two clusters", one},
		{"no such context", Wish{Context: "nothing"}, nil, "", "there are: far, pg", "there are: far, pg"},
		{"no such playground", Wish{Playground: "nowhere"}, nil, "", "playground: open nowhere", "nowhere"},
		{"the current context is gone", Wish{}, nil, "gone", `context "gone": there is none`, `context "gone": there is none`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(d.Dir, currentFile)
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
			if c.current != "" {
				if err := os.WriteFile(file, []byte(c.current+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := c.wish.Find(c.env)
			where := strings.Join(got.Endpoints, ",") + " " + got.Cert
			if err != nil {
				wantCode(t, err, themis.InvalidArgument)
				where = err.Error()
			}
			if where != c.where && (err == nil || !strings.Contains(where, c.where)) {
				t.Errorf("found %q; want %q", where, c.where)
			}
			dir, err := c.wish.PlaygroundDir(c.env)
			if err != nil {
				wantCode(t, err, themis.InvalidArgument)
				dir = err.Error()
			}
			if dir != c.dir && (err == nil || !strings.Contains(dir, c.dir)) {
				t.Errorf("the playground is %q; want %q", dir, c.dir)
			}
		})
	}
}

// TestFindNothing: where there is nothing at all, what to give is said.
func TestFindNothing(t *testing.T) {
	made := home(t)
	_, err := Wish{}.Find(nil)
	wantCode(t, err, themis.InvalidArgument)
	if dir, err := (Wish{}).PlaygroundDir(nil); dir != "" || err != nil {
		t.Errorf("%q, %v", dir, err)
	}
	c := Context{CA: filepath.Join(made("moved"), "pki", "ca.crt")}
	if dir := c.Playground(); dir == "" {
		t.Error("the playground of its own CA was not found")
	}
	if dir := (Context{CA: "/etc/ca.crt"}).Playground(); dir != "" {
		t.Errorf("%q is no playground", dir)
	}
}
