package main

import (
	"context"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// TestTopWaitsForANode: where no node answers the screens are told why, again and again, until they are left.
func TestTopWaitsForANode(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"pki", "init", "--cluster", "demo", "--dir", dir}, {"pki", "issue", "--client", "op", "--dir", dir}} {
		if exit := run(t.Context(), args, nil, new(discard), new(discard)); exit != 0 {
			t.Fatalf("%v: exit %d", args, exit)
		}
	}
	a := newApp(nil, new(discard), new(discard), nil)
	a.flags.endpoints = []string{"127.0.0.1:1"}
	a.flags.ca, a.flags.cert, a.flags.key = dir+"/ca.crt", dir+"/op.crt", dir+"/op.key"
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	told := 0
	for f, err := range (latecomer{a}).Watch(ctx, 0) {
		if themis.CodeOf(err) != themis.Unreachable || f.Report.Status != "" {
			t.Fatalf("%v, %s", err, f.Report.Status)
		}
		if told++; told == 2 {
			break
		}
	}
	if told != 2 {
		t.Errorf("told %d times", told)
	}
}
