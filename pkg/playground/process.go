package playground

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// process is one run of a node. A pid alone says nothing: the system gives it to others later.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in ticks since the boot, as /proc/<pid>/stat has it
	Boot  string `json:"boot"`  // of the machine
}

// ProcessState says what became of a node's process.
type ProcessState string

// The states.
const (
	Running ProcessState = "RUNNING"
	Paused  ProcessState = "PAUSED"  // by SIGSTOP
	Stopped ProcessState = "STOPPED" // there is none
)

const (
	pollEvery  = 20 * time.Millisecond
	stopWithin = 20 * time.Second // after this a node that was asked to end is killed
	killWithin = 10 * time.Second // the system takes this long at most to end what was killed
)

// stat is what /proc/<pid>/stat says.
type stat struct {
	state   byte // R, S, D: it runs; T, t: stopped by a signal; Z, X: its first thread has ended
	parent  int
	threads int // with the first one
	start   uint64
}

// parseStat reads `pid (name) state ppid …`. The name may hold anything, also parentheses and spaces.
func parseStat(b []byte) (stat, error) {
	at := bytes.LastIndexByte(b, ')')
	if at < 0 {
		return stat{}, errors.New("no name in parentheses")
	}
	f := strings.Fields(string(b[at+1:]))
	const threads, start = 17, 19 // the 20th and 22nd field, of which the first two are before
	if len(f) <= start || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("%d fields behind the name; want at least %d", len(f), start+1)
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return stat{}, fmt.Errorf("parent: %w", err)
	}
	n, err := strconv.Atoi(f[threads])
	if err != nil {
		return stat{}, fmt.Errorf("threads: %w", err)
	}
	ticks, err := strconv.ParseUint(f[start], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("start time: %w", err)
	}
	return stat{state: f[0][0], parent: parent, threads: n, start: ticks}, nil
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// command is the command line of a process, nil where it can't be read.
func command(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// bootID names this run of the machine; empty where it can't be read, and then it is so each time.
var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// processOf describes the process with that pid.
func processOf(pid int) (process, error) {
	st, err := readStat(pid)
	if err != nil {
		return process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return process{PID: pid, Start: st.start, Boot: bootID()}, nil
}

// look compares the process with what was recorded: boot, start time and the whole command line. A child of this program that has
// ended is reaped.
func (r *process) look(want []string) ProcessState {
	if r == nil || r.Boot != bootID() {
		return Stopped
	}
	st, err := readStat(r.PID)
	if err != nil || st.start != r.Start {
		return Stopped
	}
	if st.ended() && st.parent == os.Getpid() {
		_, _ = syscall.Wait4(r.PID, nil, syscall.WNOHANG, nil) //nolint:errcheck // somebody else may have
	}
	return judge(st, command(r.PID), want)
}

// ended says whether nothing of the process is left but its entry. While another thread than the first is on its way out, the process
// still has its files and its ports.
func (s stat) ended() bool {
	return (s.state == 'Z' || s.state == 'X' || s.state == 'x') && s.threads <= 1
}

// judge says what a process with the recorded start time is. One on its way out has no command line any more, but still its files
// and its lock: it is not gone yet.
func judge(st stat, line, want []string) ProcessState {
	switch {
	case st.ended(), line != nil && !slices.Equal(line, want):
		return Stopped
	case st.state == 'T', st.state == 't':
		return Paused
	}
	return Running
}

// signal sends a signal to the very process that was compared: the handle is taken first, so that a pid which is given to another
// process in between reaches nobody.
func (r *process) signal(want []string, sig syscall.Signal) error {
	h, err := os.FindProcess(r.PID)
	if err != nil {
		return fmt.Errorf("process %d: %w", r.PID, err)
	}
	defer h.Release() //nolint:errcheck // only a handle
	if r.look(want) == Stopped {
		return nil
	}
	if err := h.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return themis.Errorf(themis.PermissionDenied, "signal process %d: %w", r.PID, err).Do("run this as the user who started the playground")
	}
	return nil
}

// ended waits until every process has ended, and answers whether they have.
func ended(ctx context.Context, within time.Duration, list []running) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		alive := slices.ContainsFunc(list, func(r running) bool { return r.look(r.command) != Stopped })
		if !alive {
			return true
		}
		if !pause(ctx, pollEvery) {
			return false
		}
	}
}

// running is a process with the command line that it must have.
type running struct {
	*process
	node    themis.NodeID
	command []string
}

// commands fills in the command lines of the nodes.
func (p *Playground) commands(s *state) {
	for i := range s.Nodes {
		line := append([]string{p.path(binDir, s.Binary)}, s.Args...)
		s.Nodes[i].command = append(line, "--config", p.path(string(s.Nodes[i].ID), configName))
	}
}

// look finds out what became of the node's process.
func (p *Playground) look(m member) ProcessState {
	if m.Process == nil {
		return Stopped
	}
	return m.Process.look(m.command)
}

// end ends processes: by sig first, KILL for what has not ended after a while or when ctx ends. TERM lets a node hand over what it
// leads; INT, for those that end together, does not.
func end(ctx context.Context, sig syscall.Signal, list []running) error {
	for _, r := range list {
		err := r.signal(r.command, sig)
		if err == nil { // a paused process hears TERM only when it goes on
			err = r.signal(r.command, syscall.SIGCONT)
		}
		if err != nil {
			return fmt.Errorf("stop %s: %w", r.node, err)
		}
	}
	if ended(ctx, stopWithin, list) {
		return nil
	}
	return kill(context.WithoutCancel(ctx), list)
}

func kill(ctx context.Context, list []running) error {
	for _, r := range list {
		if err := r.signal(r.command, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill %s: %w", r.node, err)
		}
	}
	if !ended(ctx, killWithin, list) {
		return themis.Errorf(themis.Deadline, "the processes were killed, but have not ended within %s", killWithin).Do("run the same command again")
	}
	return nil
}

// adopt finds processes that were started, but not written down because the command that started them was killed: their whole
// command line is that of a node of this playground.
func (p *Playground) adopt(s *state) error {
	missing := map[string]*member{}
	for i := range s.Nodes {
		if p.look(s.Nodes[i]) == Stopped {
			s.Nodes[i].Process = nil
			missing[strings.Join(s.Nodes[i].command, "\x00")] = &s.Nodes[i]
		}
	}
	if len(missing) == 0 {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		m := missing[strings.Join(command(pid), "\x00")]
		if m == nil {
			continue
		}
		if found, err := processOf(pid); err == nil {
			m.Process = &found
		}
	}
	return nil
}
