package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestExamples runs the scripts of docs/examples as an operator would, a story each.
func TestExamples(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Abs("../../docs/examples")
	if err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Abs(airports)
	if err != nil {
		t.Fatal(err)
	}
	script(t, "testdata/examples", func(e *testscript.Env) error {
		e.Setenv("EXAMPLES", examples)
		e.Setenv("AIRPORTS", documents)
		e.Setenv("DIR", "it's a cluster") // a blank and a quote are nothing special
		e.Defer(func() {
			endPlaygrounds(t, e.WorkDir)
			endDeployed(t, e.WorkDir)
		})
		return nil
	})
}

// endDeployed kills what deploy.sh left, by the process ids that it wrote.
func endDeployed(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*", "pid"))
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Error(err)
			continue
		}
		args, err := exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
		if err == nil && strings.Contains(string(args), dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(dir, "*", "*", "themisd.log"))
		for _, f := range logs {
			b, _ := os.ReadFile(f)
			t.Logf("%s:\n%s", f, b[max(0, len(b)-4000):])
		}
	}
}
