package main

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/playground"
)

// The stories of testdata/playground start real clusters of this binary.
func TestPlaygroundScripts(t *testing.T) {
	t.Parallel()
	script(t, "testdata/playground", func(e *testscript.Env) error {
		e.Defer(func() { endPlaygrounds(t, e.WorkDir) })
		return nil
	})
}

const playgroundPatience = 40 * time.Second

// endPlaygrounds leaves no process behind, whatever became of a story.
func endPlaygrounds(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != client.PlaygroundFile {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), playgroundPatience)
		defer cancel()
		p, err := playground.Open(filepath.Dir(path), playground.Host{})
		if err != nil {
			return err
		}
		info, err := p.Info()
		for _, n := range info.Nodes {
			_, killErr := p.Kill(ctx, n.ID)
			err = errors.Join(err, killErr)
		}
		return err
	})
	if err != nil {
		t.Errorf("end what was left: %v", err)
	}
}

// TestPlaygroundStays: without --detach it shows what happens until it is interrupted, then it stops the cluster.
func TestPlaygroundStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pg := filepath.Join(dir, "pg")
	t.Cleanup(func() { endPlaygrounds(t, dir) })
	ctx, cancel := context.WithTimeout(t.Context(), playgroundPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, built(t), "playground", "--data-dir", pg, "--no-load", "--nodes", "1", "--replication-factor", "1")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME=", "XDG_CACHE_HOME=")
	var answer strings.Builder
	cmd.Stdout = &answer
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []string
	for lines := bufio.NewScanner(said); lines.Scan(); {
		all = append(all, lines.Text())
		if strings.Contains(lines.Text(), "until you press Ctrl-C") {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	text := strings.Join(all, "\n")
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !strings.Contains(answer.String(), "HEALTHY: 1 node, 4 shards, 1 copy of each") {
		t.Errorf("answer:\n%s", answer.String())
	}
	if !strings.Contains(text, "stopped. To start it again, with all its data: ") || !strings.HasSuffix(strings.TrimSpace(text), " playground start") {
		t.Errorf("said:\n%s", text)
	}
	p, err := playground.Open(pg, playground.Host{})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := p.Info(); err != nil || info.Running != 0 {
		t.Errorf("%d processes run, %v", info.Running, err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the command has not ended: %v", err)
	}
}
