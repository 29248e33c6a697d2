package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// beMain is set for the processes that tests start: then this test binary is themis-cli.
const beMain = "CLI_TEST_MAIN"

// builtDir holds the program as users have it; see built.
var builtDir string

func TestMain(m *testing.M) {
	if os.Getenv(beMain) != "" {
		main()
	}
	code := m.Run()
	if builtDir != "" {
		_ = os.RemoveAll(builtDir)
	}
	os.Exit(code)
}

// built is the path of the program as users have it: stories that call it a hundred times would wait long for one that looks for races, which
// TestACluster does.
func built(t testing.TB) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "themis-cli-*")
	if err != nil {
		return "", err
	}
	builtDir = dir
	path := filepath.Join(dir, "themis-cli")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return path, nil
})

// script runs the stories of a directory as a user would type them.
func script(t *testing.T, dir string, setup func(*testscript.Env) error) {
	bin := filepath.Dir(built(t))
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir+"/home")
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir+"/config")
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			e.Setenv("USER", "tester")
			if setup == nil {
				return nil
			}
			return setup(e)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "mode": mode, "until": until},
	})
}

// exits CODE COMMAND … runs a command that must end with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND …")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("exits %s: %v", args[0], err)
	}
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d; want %d", got, want)
	}
}

// mode OCTAL FILE compares the permissions of a file.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); (got == args[0]) == neg {
		ts.Fatalf("%s has mode %s", args[1], got)
	}
}

// until FILE waits for a file.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: until FILE")
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s did not come", args[0])
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestScripts(t *testing.T) { script(t, "testdata", nil) }

func TestInterruptedIs130(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := run(ctx, []string{"cluster", "health", "--endpoint", "127.0.0.1:1", "--cacert", "x", "--cert", "x", "--key", "x"}, nil, new(discard), new(discard)); code != 130 {
		t.Fatalf("exit code %d; want 130", code)
	}
}

// TestTimeoutZeroIsTheCommandsOwn: --timeout 0 means what its help says, and is not for ever.
func TestTimeoutZeroIsTheCommandsOwn(t *testing.T) {
	var a app
	ctx, cancel := a.limited(t.Context(), requestTime)
	defer cancel()
	end, limited := ctx.Deadline()
	if left := time.Until(end); !limited || left > requestTime || left < requestTime/2 {
		t.Errorf("%s left, limited: %v", left, limited)
	}
	a.flags.timeout = time.Second
	ctx, cancel = a.limited(t.Context(), requestTime)
	defer cancel()
	if end, _ := ctx.Deadline(); time.Until(end) > time.Second {
		t.Errorf("%s left", time.Until(end))
	}
}

type discard struct{}

func (*discard) Write(b []byte) (int, error) { return len(b), nil }
