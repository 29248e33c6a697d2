package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/pkg/themis"
)

// verb is a command of the contract that this version does not serve.
type verb struct{ path, instead string }

// unserved are they. Each answers UNIMPLEMENTED, has no place in the help, and names what there is instead.
var unserved = []verb{
	{"cluster rebalance", "themis-cli shard list -o wide"},
	{"cluster rebalance-status", "themis-cli shard list -o wide"},
	{"cluster pause", "themis-cli cluster status"},
	{"cluster resume", "themis-cli cluster status"},
	{"shard analyze", "themis-cli shard show SHARD"},
	{"shard split", "themis-cli shard show SHARD"},
	{"shard switchover", "themis-cli shard show SHARD"},
	{"node drain", "stop the node, and wait until its copies are made anew elsewhere: themis-cli shard list"},
	{"node promote", "themis-cli node list"},
	{"slot", "themis-cli shard show SHARD"},
	{"wal", "themisdb-repl-doctor validate-wal --help"},
	{"snapshot", ""},
	{"basebackup", ""},
	{"archive", ""},
	{"pitr", ""},
	{"rescued", "themisdb-repl-doctor losses --help"},
	{"simulate", ""},
	{"chaos", "themis-cli playground node --help"},
	{"pki ca", "themis-cli pki init --cluster NAME --dir DIR"},
	{"pki revoke", ""},
	{"pki rotate", "themis-cli pki renew CERT"},
	{"query", "themis-cli doc scan COLLECTION"},
	{"cdc", "themis-cli cluster events --follow"},
	{"conflicts", ""},
	{"tier", ""},
	{"mode", ""},
	{"topology", "themis-cli cluster status"},
	{"tx", ""},
	{"election", "themis-cli cluster events"},
	{"lag", "themis-cli shard show SHARD"},
	{"insights", "themis-cli cluster health -o wide"},
	{"cost", ""},
}

// addUnserved puts them into the tree, each under its noun.
func addUnserved(root *cobra.Command) {
	for _, v := range unserved {
		parent, name := root, v.path
		if noun, rest, two := strings.Cut(v.path, " "); two {
			name = rest
			for _, c := range root.Commands() {
				if c.Name() == noun {
					parent = c
				}
			}
		}
		parent.AddCommand(unservedCommand(name, v))
	}
}

// unservedCommand takes any flags: what is wrong is not how it was called.
func unservedCommand(name string, v verb) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: "Not served by this version", Hidden: true, DisableFlagParsing: true, Annotations: map[string]string{"unserved": v.path},
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE:              func(*cobra.Command, []string) error { return v.answer() },
	}
}

func (v verb) answer() error {
	e := themis.Errorf(themis.Unimplemented, "%s is not served by this version; nothing was looked at and nothing changed", v.path)
	if v.instead != "" {
		e = e.Do("%s", v.instead)
	}
	return e
}
