package playground

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/themisdb/themis/pkg/node"
	"github.com/themisdb/themis/pkg/themis"
)

// What this binary is, when a playground of a test runs it as its nodes: a real one, one that never opens a port, one that does not
// even end when it is asked to, one that ends at once.
var nodes = map[string]func() int{
	"node-run": func() int {
		return node.Main(context.Background(), "themisd", os.Args[2:], os.Environ(), os.Stdout, os.Stderr)
	},
	"silent": func() int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("ended in peace")
		return 0
	},
	"stubborn": func() int {
		signal.Ignore(os.Interrupt, syscall.SIGTERM)
		fmt.Println("ready")
		select {}
	},
	"broken": func() int {
		fmt.Fprintln(os.Stderr, "this node is broken")
		return 2
	},
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if run, ok := nodes[os.Args[1]]; ok {
			os.Exit(run())
		}
	}
	goleak.VerifyTestMain(m)
}

// testHost runs this binary as nodes of that kind.
func testHost(t *testing.T, kind string) Host {
	t.Helper()
	return Host{
		Args: []string{kind}, Registry: t.TempDir(),
		Step: func(what string, took time.Duration) { t.Logf("%6.2f s  %s", took.Seconds(), what) },
	}
}

// within bounds every wait of a test.
const within = 40 * time.Second

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until something is true that another process is about to make so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for ctx := bounded(t); !ok(); {
		if !pause(ctx, pollEvery) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// made is a playground with processes of that kind, as if it had been founded.
func made(t *testing.T, kind string, nodes int) *Playground {
	t.Helper()
	o := Default()
	o.Nodes, o.RF = nodes, min(nodes, 2)
	h, err := testHost(t, kind).complete()
	if err != nil {
		t.Fatal(err)
	}
	p := &Playground{Dir: t.TempDir(), host: h}
	s := &state{Format: stateFormat, Dir: p.Dir, Cluster: clusterName, Options: o, Nodes: o.members(), Founded: true}
	if err := p.prepare(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { killAll(t, p) })
	for i := range s.Nodes {
		if err := p.spawn(&s.Nodes[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.write(s); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Nodes { // from then on it hears signals as it should
		eventually(t, "the first line of the log", func() bool { return len(p.LogTail(m.ID, 1)) == 1 })
	}
	return p
}

// killAll leaves no process of the playground behind, and does not wait for them to end in peace.
func killAll(t *testing.T, p *Playground) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err := p.change(ctx, func(s *state) error { return kill(ctx, p.living(s)) })
	if err != nil {
		t.Errorf("kill what is left: %v", err)
	}
	if left := processesOf(t, p.Dir); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

// processesOf are the processes with dir in their command line, found without anything that the playground wrote.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && strings.Contains(string(b), dir+"/") {
			out = append(out, e.Name()+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// must passes a value on.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// refused checks that err is of the code, says all the words and what to do next.
func refused(t *testing.T, err error, code themis.Code, words ...string) {
	t.Helper()
	if themis.CodeOf(err) != code {
		t.Fatalf("want %s, got %s: %v", code, themis.CodeOf(err), err)
	}
	for _, w := range words {
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), w) {
			t.Errorf("want %q in: %v", w, err)
		}
	}
}
