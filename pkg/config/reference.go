package config

import (
	"fmt"
	"strings"
)

// Reference is the table of all keys as Markdown: docs/reference/config.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Configuration keys

Made from the table in ` + "`pkg/config`" + ` by ` + "`go test ./pkg/config -run Reference -rewrite`" + `; do not edit it here.

A value comes from, in rising order: the default, files (later over earlier), the environment, flags, and for cluster-wide keys what was
applied to the cluster. Any key may stand in any file; the file named here is the example that shows it. A key of the list ` + "`wal.directories`" + `
such as ` + "`wal.directories[].path`" + ` is a field of each entry. Other names of a setting are accepted and mean the same.

* **scope**: *node* is each node's own; *cluster* is one value for all, kept by the control plane and changed with ` + "`themis-cli cluster apply-config`" + `. What is
  applied is in force on every node within a moment; a node whose own file or version does not go with it keeps what it had, and says so in health (CONFIG_WARNING).
* **change**: *live* at once, *restart* when the node is started again, *init* only when a cluster is made: ` + "`themis-cli cluster init`" + ` takes from the nodes' own
  configurations what its flags don't say, and refuses nodes that contradict each other.
* **served**: *no* means that the key is accepted and checked, and that this version doesn't act on it.
* The environment variable of a key is ` + "`THEMIS_`" + ` and its path in upper case with underscores: ` + "`control.tick_ms`" + ` is ` + "`THEMIS_CONTROL_TICK_MS`" + `. The flag is
  the path with dashes, without ` + "`node.`" + `: ` + "`--control-tick-ms`" + `, ` + "`--data-dir`" + `. Lists are written ` + "`a,b`" + ` or as JSON.
`)
	group := ""
	for _, k := range known.keys {
		if g, _, _ := strings.Cut(strings.ReplaceAll(k.Path, "[]", ""), "."); g != group {
			group = g
			fmt.Fprintf(&b, "\n## %s\n\n| key | type | default | values | scope | change | served | meaning | example file |\n|---|---|---|---|---|---|---|---|---|\n", g)
		}
		meaning := k.Meaning
		if names := k.names()[1:]; len(names) > 0 {
			meaning += "; also `" + strings.Join(names, "`, `") + "`"
		}
		served := "yes"
		if !k.Served() {
			served = "no"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s | %s | %s |\n", k.Path, k.Type, code(k.defaultText()), k.Want(), k.Scope, k.Apply, served, meaning, k.File)
	}
	return b.String()
}

func (k Key) defaultText() string {
	switch {
	case k.Required:
		return "required"
	case k.Default == "":
		return ""
	}
	return k.Default
}

func code(s string) string {
	if s == "" || s == "required" {
		return s
	}
	return "`" + s + "`"
}
