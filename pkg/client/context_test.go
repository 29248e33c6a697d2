package client

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func TestContexts(t *testing.T) {
	d := Contexts{filepath.Join(t.TempDir(), "a", "b")}
	if names, err := d.List(); err != nil || len(names) > 0 {
		t.Fatalf("%v, %v", names, err)
	}
	if now, err := d.Current(); err != nil || now != "" {
		t.Fatalf("%q, %v", now, err)
	}
	one := Context{Cluster: "one", Endpoints: []string{"a:1"}, CA: "ca", Cert: "c", Key: "k"}
	for _, name := range []string{"two", "one"} {
		if err := d.Save(name, one); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := d.Current(); err != nil || now != "two" {
		t.Fatalf("%q, %v: the first one stays the current one", now, err)
	}
	if err := d.Use("one"); err != nil {
		t.Fatal(err)
	}
	if now, _ := d.Current(); now != "one" {
		t.Fatalf("%q", now)
	}
	if names, err := d.List(); err != nil || !slices.Equal(names, []string{"one", "two"}) {
		t.Fatalf("%v, %v", names, err)
	}
	got, err := d.Load("one")
	if err != nil || got.Key != "k" || !slices.Equal(got.Endpoints, one.Endpoints) || got.Files().Cert != "c" {
		t.Fatalf("%+v, %v", got, err)
	}
	left, err := os.ReadDir(d.Dir)
	if err != nil || len(left) != 3 {
		t.Fatalf("%v, %v: something temporary was left", left, err)
	}
}

func TestContextsRefuse(t *testing.T) {
	d := Contexts{t.TempDir()}
	for name, content := range map[string]string{"broken": "{", "empty": "{}"} {
		if err := os.WriteFile(filepath.Join(d.Dir, name+".json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := d.Load(name)
		wantCode(t, err, themis.InvalidArgument)
		wantCode(t, d.Use(name), themis.InvalidArgument)
	}
	for _, name := range []string{"", "../x", "a/b", ".hidden"} {
		_, err := d.Load(name)
		wantCode(t, err, themis.InvalidArgument)
		wantCode(t, d.Save(name, Context{}), themis.InvalidArgument)
	}
	if now, _ := d.Current(); now != "" {
		t.Fatalf("%q", now)
	}
}

func TestPlaygroundFile(t *testing.T) {
	dir := t.TempDir()
	_, err := LoadPlayground(dir)
	wantCode(t, err, themis.InvalidArgument)
	file := filepath.Join(dir, PlaygroundFile)
	for _, bad := range []string{"[", `{"cluster":"x"}`} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadPlayground(dir)
		wantCode(t, err, themis.InvalidArgument)
	}
	const good = `{"cluster":"demo","ca_cert":"a","client_cert":"b","client_key":"c","nodes":[{"id":"node-1","pid":1,"grpc_addr":"127.0.0.1:1","http_addr":"h","metrics_addr":"m","data_dir":"d","log":"l"}]}`
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := LoadPlayground(dir)
	if err != nil || p.Nodes[0].Log != "l" {
		t.Fatalf("%+v, %v", p, err)
	}
	if c := p.Context(); c.CA != "a" || c.Cert != "b" || c.Key != "c" || !slices.Equal(c.Endpoints, []string{"127.0.0.1:1"}) {
		t.Fatalf("%+v", c)
	}
}
