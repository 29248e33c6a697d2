package main

import (
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/advice"
)

// prose are sentences that begin with the program's name.
var prose = []string{"examines", "reads"}

// TestAdviceNamesCommands holds every command of this program that a text of ours or a page tells people to type against its tree: it is there, it
// is served, its flags exist and its arguments are enough.
func TestAdviceNamesCommands(t *testing.T) {
	found, err := advice.Find(os.DirFS("../.."), "themisdb-repl-doctor")
	if err != nil {
		t.Fatal(err)
	}
	tree := func() *cobra.Command { return (&app{out: io.Discard, errOut: io.Discard, now: time.Now}).root() }
	checked := 0
	for _, c := range found {
		if len(c.Words) == 0 || slices.Contains(prose, c.Words[0]) || c.Words[0] == advice.Filled {
			continue
		}
		checked++
		if err := c.Check(tree, nil); err != nil {
			t.Errorf("%s: %q: %v", c.Where, c.Text, err)
		}
	}
	if checked < 10 {
		t.Errorf("only %d commands were found: this test looks in the wrong place", checked)
	}
}
