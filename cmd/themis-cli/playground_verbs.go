package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/themis"
)

func playgroundStatus(a *app, f *playgroundFlags) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the processes and the health of a playground", Args: usage.None,
		Long: "Show the processes and the health of a playground. Exit codes: 0 HEALTHY and every process runs, 1 not so, 3 processes run but none answers.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.openPlayground(f.dir)
			if err != nil {
				return err
			}
			out, err := a.look(cmd.Context(), p)
			if err != nil {
				return err
			}
			idle := slices.ContainsFunc(out.Nodes, func(n playground.NodeInfo) bool { return n.Process != playground.Running })
			switch { // a report may be older than the end of a process
			case out.Status == "UNKNOWN":
				a.answer(themis.ExitInconclusive)
			case out.Status != string(health.Healthy) || idle:
				a.answer(themis.ExitFailed)
			}
			return a.print(out, func(w io.Writer, _ bool) { drawPlayground(w, out) })
		},
	}
}

func playgroundStop(a *app, f *playgroundFlags) *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "End the processes of a playground; its data stays", Args: usage.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.openAny(f.dir) // processes may be left of one whose founding was killed
			if err != nil {
				return err
			}
			n, err := p.Stop(cmd.Context())
			if err != nil {
				return err
			}
			return a.done(p, n > 0, "stopped", "was stopped already")
		},
	}
}

func playgroundStart(a *app, f *playgroundFlags) *cobra.Command {
	return &cobra.Command{
		Use: "start", Short: "Start the stopped nodes of a playground, with all their data", Args: usage.None,
		Long: "Start the stopped nodes of a playground, with all their data, resume paused ones, and return when the cluster is HEALTHY. What was not\nloaded to its end is loaded once more.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.openPlayground(f.dir)
			if err != nil {
				return err
			}
			ctx, cancel := a.limited(cmd.Context(), 0)
			defer cancel()
			woken, err := p.Start(ctx)
			if err != nil {
				return err
			}
			docs, err := a.unloaded(ctx, p)
			if err != nil {
				return err
			}
			if _, err := a.loadInto(ctx, p, docs); err != nil {
				return err
			}
			return a.done(p, len(woken) > 0, "started", "ran already")
		},
	}
}

func playgroundList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the playgrounds of this user", Args: usage.None,
		RunE: func(*cobra.Command, []string) error {
			list, err := playground.List(a.host())
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer, _ bool) {
				rows := [][]string{}
				for _, i := range list {
					rows = append(rows, []string{i.Dir, dash(i.Context), fmt.Sprint(len(i.Nodes)), fmt.Sprint(i.Running)})
				}
				columns(w, "DIRECTORY CONTEXT NODES RUNNING", rows)
			})
		},
	}
}

// done tells what became of a playground; repeating what is done already is fine.
func (a *app) done(p *playground.Playground, did bool, now, already string) error {
	info, err := p.Info()
	if err != nil {
		return err
	}
	return a.print(info, func(w io.Writer, _ bool) {
		if !did {
			now = already
		}
		_, _ = fmt.Fprintf(w, "the playground in %s %s: %d of %d processes run\n", info.Dir, now, info.Running, len(info.Nodes))
	})
}

// nodeVerb is something that can be done to one node of a playground.
type nodeVerb struct {
	name, short, did, already string
	do                        func(*playground.Playground, context.Context, themis.NodeID) (bool, error)
}

var nodeVerbs = []nodeVerb{
	{"kill", "End a node's process as a crash would (SIGKILL)", "killed", "is stopped already", (*playground.Playground).Kill},
	{"stop", "Ask a node's process to end (SIGTERM), and wait", "stopped", "is stopped already", (*playground.Playground).StopNode},
	{"start", "Start a stopped node with the files it had", "started", "runs already", (*playground.Playground).StartNode},
	{"pause", "Freeze a node's process (SIGSTOP): it keeps its connections and answers nothing", "paused", "is paused already", (*playground.Playground).Pause},
	{"resume", "Let a paused node go on (SIGCONT)", "resumed", "runs already", (*playground.Playground).Resume},
	{"add", "Make one more node and have the cluster take it in", "added", "is a member already", (*playground.Playground).Add},
}

func playgroundNode(a *app, f *playgroundFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Kill, stop, start, pause, resume or add one node"}
	for _, v := range nodeVerbs {
		cmd.AddCommand(&cobra.Command{
			Use: v.name + " NODE", Short: v.short, Args: usage.Exactly(1),
			RunE: func(c *cobra.Command, args []string) error {
				return a.playgroundVerb(c.Context(), f.dir, v, themis.NodeID(args[0]))
			},
		})
	}
	return group(cmd)
}

// verbAnswer is the JSON of `playground node VERB`.
type verbAnswer struct {
	Node    themis.NodeID           `json:"node"`
	Changed bool                    `json:"changed"` // false: it was so already
	Process playground.ProcessState `json:"process"`
	Pid     *int                    `json:"pid"`
}

func (a *app) playgroundVerb(ctx context.Context, dir string, v nodeVerb, id themis.NodeID) error {
	p, err := a.openPlayground(dir)
	if err != nil {
		return err
	}
	did, err := v.do(p, ctx, id)
	if err != nil {
		return err
	}
	info, err := p.Info()
	if err != nil {
		return err
	}
	out := verbAnswer{Node: id, Changed: did}
	for _, n := range info.Nodes {
		if n.ID == id {
			out.Process, out.Pid = n.Process, n.Pid
		}
	}
	return a.print(out, func(w io.Writer, _ bool) {
		text := v.did
		if !did {
			text = v.already
		}
		if out.Pid != nil {
			text += fmt.Sprintf(" (pid %d)", *out.Pid)
		}
		_, _ = fmt.Fprintf(w, "%s %s\n", id, text)
	})
}

// typing makes commands as this user would type them for one playground.
type typing struct{ program, dirFlag, clusterFlag string }

// typing finds out how this program was called, and which flags can be left out. context is the playground's; empty: it is not asked.
func (a *app) typing(p *playground.Playground, context string) typing {
	t := typing{program: p.CLI(), dirFlag: " --data-dir " + p.Dir, clusterFlag: " --playground " + p.Dir}
	self, err := os.Executable()
	if found, lookErr := exec.LookPath("themis-cli"); err == nil && lookErr == nil {
		one, err1 := os.Stat(self)
		two, err2 := os.Stat(found)
		if err1 == nil && err2 == nil && os.SameFile(one, two) {
			t.program = "themis-cli"
		}
	}
	if dir, err := verbDir(client.Wish{}, a.env); err == nil && dir == p.Dir {
		t.dirFlag = ""
	}
	if d, err := client.UserContexts(); err == nil && context != "" {
		if now, err := d.Current(); err == nil && now == context {
			t.clusterFlag = ""
		}
	}
	return t
}

func (t typing) cluster(command string) string { return t.program + t.clusterFlag + " " + command }

func (t typing) playground(command string) string {
	return t.program + " playground " + command + t.dirFlag
}

// showChange prints a line for what happened: on stdout, unless that is for a machine to read.
func (a *app) showChange(c playground.Change) {
	to := a.out
	if a.flags.output != "table" && a.flags.output != "wide" {
		to = a.errOut
	}
	if c.Event == nil {
		word := map[playground.ProcessState]string{playground.Running: "runs", playground.Paused: "is paused", playground.Stopped: "has ended"}[c.Process]
		_, _ = fmt.Fprintf(to, "%s  the process of %s %s\n", time.Now().Format(time.TimeOnly), c.Node, word)
		return
	}
	e := c.Event
	text := fmt.Sprintf("%s  %s %s", e.Time.Local().Format(time.TimeOnly), strings.ReplaceAll(e.Action, "_", " "), e.Subject)
	if e.Outcome != "done" {
		text += " " + strings.ReplaceAll(e.Outcome, "_", " ")
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	_, _ = fmt.Fprintln(to, text)
}
