package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/advice"
)

// needs are the flags (or an argument: empty) without one of which a command refuses.
var needs = map[string][]string{
	"themis-cli cluster init":      {"nodes"},
	"themis-cli node join":         {"", "token"},
	"themis-cli pki init":          {"cluster"},
	"themis-cli pki issue":         {"node", "client"},
	"themis-cli node token create": nil,
}

// prose are sentences that begin with the program's name.
var prose = map[string]bool{"makes": true, "that": true}

// TestAdviceNamesCommands holds every command that a text of ours or a page tells people to type against the tree of commands: it is there, it is
// served, its flags exist and its arguments are enough.
func TestAdviceNamesCommands(t *testing.T) {
	found, err := advice.Find(os.DirFS("../.."), "themis-cli")
	if err != nil {
		t.Fatal(err)
	}
	tree := func() *cobra.Command {
		return rootCommand(newApp(strings.NewReader(""), io.Discard, io.Discard, nil))
	}
	checked := 0
	for _, c := range found {
		if len(c.Words) == 0 || prose[c.Words[0]] || c.Words[0] == advice.Filled {
			continue
		}
		checked++
		if err := c.Check(tree, needs); err != nil {
			t.Errorf("%s: %q: %v", c.Where, c.Text, err)
		}
	}
	if checked < 100 {
		t.Errorf("only %d commands were found: this test looks in the wrong place", checked)
	}
}
