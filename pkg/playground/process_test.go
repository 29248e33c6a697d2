package playground

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

func TestParseStat(t *testing.T) {
	const rest = " 1 100 100 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 9 0 12345 0 0\n"
	for name, c := range map[string]struct {
		line string
		want stat
		bad  bool
	}{
		"plain":              {"42 (themis-cli) S" + rest, stat{'S', 1, 9, 12345}, false},
		"a name that lies":   {"42 (a) Z 7 (b)) T" + rest, stat{'T', 1, 9, 12345}, false},
		"no name":            {"42 S" + rest, stat{}, true},
		"cut":                {"42 (a) S 1 100", stat{}, true},
		"threads no number":  {"42 (a) S" + strings.Replace(rest, " 9 0 ", " x 0 ", 1), stat{}, true},
		"no number":          {"42 (a) S" + strings.Replace(rest, "12345", "x", 1), stat{}, true},
		"parent no number":   {"42 (a) S" + strings.Replace(rest, " 1 100", " x 100", 1), stat{}, true},
		"state of two bytes": {"42 (a) SS" + rest, stat{}, true},
		"empty":              {"", stat{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(c.line))
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	if st, err := readStat(os.Getpid()); err != nil || st.state != 'R' && st.state != 'S' || st.parent != os.Getppid() {
		t.Errorf("this process: %+v, %v", st, err)
	}
}

func TestJudge(t *testing.T) {
	want := []string{"bin/themisd", "--config", "x"}
	if got := judge(stat{state: 'Z', threads: 2}, nil, want); got != Running {
		t.Errorf("a second thread is on its way out: %s", got)
	}
	for name, c := range map[string]struct {
		state byte
		line  []string
		want  ProcessState
	}{
		"runs":              {'R', want, Running},
		"sleeps":            {'S', want, Running},
		"waits for a disk":  {'D', want, Running},
		"stopped":           {'T', want, Paused},
		"traced":            {'t', want, Paused},
		"on its way out":    {'R', nil, Running},
		"a zombie":          {'Z', nil, Stopped},
		"dead":              {'X', nil, Stopped},
		"another program":   {'S', []string{"vi", "x"}, Stopped},
		"another, stopped":  {'T', []string{"vi", "x"}, Stopped},
		"more on its line":  {'S', append(slices.Clone(want), "y"), Stopped},
		"less on its line":  {'S', want[:2], Stopped},
		"other order of it": {'S', []string{"bin/themisd", "x", "--config"}, Stopped},
	} {
		if got := judge(stat{state: c.state}, c.line, want); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A process that was killed counts as ended once its ports are free, also where its first thread ends before others.
func TestEndedProcessesHoldNoPorts(t *testing.T) {
	if os.Getenv("THEMIS_TEST_LISTENS") != "" {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // opening a port does not wait
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(l.Addr())
		for range 200 { // each in a thread of its own
			go func() {
				runtime.LockOSThread()
				_ = syscall.Pause()
			}()
		}
		select {}
	}
	for range 20 {
		c := exec.Command(os.Args[0], "-test.run=^TestEndedProcessesHoldNoPorts$") //nolint:noctx // killed below
		c.Env = append(os.Environ(), "THEMIS_TEST_LISTENS=1")
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		addr, err := bufio.NewReader(out).ReadString('\n')
		p, err2 := processOf(c.Process.Pid)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; {
			if st, err := readStat(p.PID); err != nil || st.threads > 200 || time.Now().After(deadline) {
				break
			}
		}
		line := command(p.PID)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for p.look(line) != Stopped {
		}
		l, err := net.Listen("tcp", strings.TrimSpace(addr)) //nolint:noctx // opening a port does not wait
		if err != nil {
			t.Fatalf("the process has ended: %v", err)
		}
		_ = l.Close()
		_ = c.Wait()
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a) Z 7 (b)) T 1 100 100 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := parseStat(b); err == nil && (st.state == 0 || !strings.Contains(string(b), strconv.FormatUint(st.start, 10))) {
			t.Errorf("%q: %+v", b, st)
		}
	})
}

// TestOnlyOurOwn changes one part of what was recorded at a time: the process is then a stranger's, and hears no signal.
func TestOnlyOurOwn(t *testing.T) {
	p := made(t, "silent", 1)
	s := must[*state](t)(p.read())
	ours, command := s.Nodes[0].Process, s.Nodes[0].command
	if got := ours.look(command); got != Running {
		t.Fatalf("as recorded: %s", got)
	}
	later, otherBoot := *ours, *ours
	later.Start++
	otherBoot.Boot = "another"
	var none *process
	for name, c := range map[string]struct {
		process *process
		command []string
	}{
		"another start time":      {&later, command},
		"another boot":            {&otherBoot, command},
		"another command":         {ours, append(slices.Clone(command), "--verbose")},
		"a part of the command":   {ours, command[:1]},
		"the system's first":      {&process{PID: 1, Start: ours.Start, Boot: ours.Boot}, command},
		"a whole group":           {&process{PID: -ours.PID, Start: ours.Start, Boot: ours.Boot}, command},
		"none":                    {none, command},
		"a process that is gone":  {&process{PID: 1 << 22, Start: ours.Start, Boot: ours.Boot}, command},
		"the test's own process":  {&process{PID: os.Getpid(), Start: ours.Start, Boot: ours.Boot}, command},
		"no command was recorded": {ours, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.process.look(c.command); got != Stopped {
				t.Errorf("it counts as %s", got)
			}
			if c.process == nil {
				return
			}
			if err := c.process.signal(c.command, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			if got := ours.look(command); got != Running {
				t.Errorf("the process is %s: the signal reached it", got)
			}
		})
	}
}

func TestVerbsOnOneNode(t *testing.T) {
	p := made(t, "silent", 2)
	ctx := bounded(t)
	check := func(what string, did bool, err error, wantDid bool, want ProcessState) {
		t.Helper()
		info := must[Info](t)(p.Info())
		if err != nil || did != wantDid || info.Nodes[1].Process != want || info.Nodes[0].Process != Running {
			t.Fatalf("%s: %v, %v; %s beside %s", what, did, err, info.Nodes[1].Process, info.Nodes[0].Process)
		}
		if pid := info.Nodes[1].Pid; (pid == nil) != (want == Stopped) {
			t.Fatalf("%s: pid %v", what, pid)
		}
	}
	did, err := p.Resume(ctx, "node-2")
	check("resume what runs", did, err, false, Running)
	did, err = p.Pause(ctx, "node-2")
	check("pause", did, err, true, Paused)
	did, err = p.Pause(ctx, "node-2")
	check("pause again", did, err, false, Paused)
	_, err = p.StartNode(ctx, "node-2")
	refused(t, err, themis.InvalidArgument, "node-2 is paused")
	did, err = p.Resume(ctx, "node-2")
	check("resume", did, err, true, Running)
	did, err = p.StartNode(ctx, "node-2")
	check("start what runs", did, err, false, Running)
	_, err = p.Pause(ctx, "node-2")
	if err != nil {
		t.Fatal(err)
	}
	did, err = p.StopNode(ctx, "node-2") // a paused process hears nothing until it goes on
	check("stop a paused one", did, err, true, Stopped)
	if last := p.LogTail("node-2", 1); !slices.Equal(last, []string{"ended in peace"}) {
		t.Errorf("it was not asked to end, or did not hear it: %q", last)
	}
	did, err = p.StopNode(ctx, "node-2")
	check("stop again", did, err, false, Stopped)
	did, err = p.Kill(ctx, "node-2")
	check("kill what is stopped", did, err, false, Stopped)
	_, err = p.Pause(ctx, "node-2")
	refused(t, err, themis.InvalidArgument, "node-2 is stopped")
	_, err = p.Resume(ctx, "node-2")
	refused(t, err, themis.InvalidArgument, "node-2 is stopped")
	_, err = p.Kill(ctx, "node-3")
	refused(t, err, themis.InvalidArgument, "node-3", "node-1, node-2")

	pid := must[*state](t)(p.read()).Nodes[0].Process.PID
	if n, err := p.Stop(ctx); n != 1 || err != nil {
		t.Errorf("stop: %d, %v", n, err)
	}
	if st, err := readStat(pid); err == nil && st.parent == os.Getpid() {
		t.Errorf("a child that has ended was not reaped: %c", st.state)
	}
	if n, err := p.Stop(ctx); n != 0 || err != nil {
		t.Errorf("stop again: %d, %v", n, err)
	}
}

// TestStopKillsTheStubborn: what does not end when it is asked to is killed when the caller's patience ends.
func TestStopKillsTheStubborn(t *testing.T) {
	p := made(t, "stubborn", 2)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if n, err := p.Stop(ctx); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if left := processesOf(t, p.Dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestAdopt: the command that started the processes was killed before it wrote them down.
func TestAdopt(t *testing.T) {
	p := made(t, "silent", 2)
	s := must[*state](t)(p.read())
	pid := s.Nodes[1].Process.PID
	s.Nodes[1].Process = nil
	if err := p.write(s); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Stop(bounded(t)); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	eventually(t, "the end of the process that was not written down", func() bool {
		st, err := readStat(pid)
		return err != nil || st.state == 'Z'
	})
}

// TestOneCommandAtATime: a second command waits, and gives up with its context.
func TestOneCommandAtATime(t *testing.T) {
	p := made(t, "silent", 1)
	held := must[*os.File](t)(p.lock(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := p.Kill(ctx, "node-1")
	refused(t, err, themis.Deadline, "another command is at work", p.Dir)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if did, err := p.Kill(bounded(t), "node-1"); !did || err != nil {
		t.Errorf("%v, %v", did, err)
	}
}
