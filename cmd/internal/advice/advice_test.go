package advice_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/themisdb/themis/cmd/internal/advice"
)

func TestFind(t *testing.T) {
	tree := fstest.MapFS{
		"a/a.go": {Data: []byte("package a\n\nvar a = \"stop it first: cli node remove %s, then cli node join\" + where()\n" +
			"var b = `cli wide {shard}; or nothing`\nvar c = \"a-cli thing\"\n")},
		"a/a_test.go":     {Data: []byte("package a\n\nvar t = \"cli not this\"\n")},
		"docs/page.md":    {Data: []byte("A `cli inline --x` and a cli in prose.\n\n```console\n$ cli fenced 'a b' > file\n  next: cli advised\ncli: an answer\n```\n")},
		"testdata/x.md":   {Data: []byte("`cli not this`")},
		"docs/broken.txt": {Data: []byte("cli not this")},
	}
	found, err := advice.Find(tree, "cli")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range found {
		got = append(got, fmt.Sprintf("%s %s %v", c.Where, strings.Join(c.Words, " "), c.Open))
	}
	want := `a/a.go:3 node remove filled-in false
a/a.go:3 node joinfilled-in true
a/a.go:4 wide filled-in false
docs/page.md:1 inline --x true
docs/page.md:4 fenced filled-in false
docs/page.md:5 advised false`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	if _, err := advice.Find(fstest.MapFS{"x.go": {Data: []byte("func")}}, "cli"); err == nil {
		t.Error("a file that is no Go was taken")
	}
}
