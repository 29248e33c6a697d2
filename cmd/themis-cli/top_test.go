package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// TestTopWithoutACluster asks for a picture where there is nothing to look at.
func TestTopWithoutACluster(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(v, dir)
	}
	for _, c := range []struct {
		args string
		exit int
		says string
	}{
		{"top", themis.ExitUsage, "no cluster is named"},
		{"top --plain --fail-on never", themis.ExitUsage, "want degraded or critical"},
		{"top node-1", themis.ExitUsage, "node-1"},
		{"top --endpoint 127.0.0.1:1", themis.ExitUsage, "--cert"},
		{"top --playground " + dir, themis.ExitUsage, "playground.json"},
	} {
		var out, errOut bytes.Buffer
		exit := run(t.Context(), strings.Fields(c.args), strings.NewReader(""), &out, &errOut)
		if exit != c.exit || !strings.Contains(errOut.String(), c.says) || out.Len() > 0 {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", c.args, exit, out.String(), errOut.String())
		}
	}
}
