package playground

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	listenWithin = 30 * time.Second // from the start of a process to its open ports
	initWithin   = 60 * time.Second
	healthWithin = 60 * time.Second
	healthEvery  = 50 * time.Millisecond
)

// Found makes a new playground in dir, which is empty or not there, and returns when it is HEALTHY. What a founding that broke off
// left there is taken away first. When ctx ends, or anything fails before the cluster is founded, its processes are ended; their
// logs stay. DEADLINE with a Playground: the cluster was founded and runs, but was not HEALTHY in time.
func Found(ctx context.Context, dir string, o Options, h Host) (*Playground, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	h, err := h.complete()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "data directory: %w", err)
	}
	p := &Playground{Dir: dir, host: h}
	if err := p.claim(); err != nil {
		return nil, err
	}
	l, err := p.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Close() //nolint:errcheck // closing gives the lock back
	if err := p.removeUnfinished(ctx); err != nil {
		return nil, err
	}
	s := &state{Format: stateFormat, Dir: dir, Created: time.Now().UTC(), Cluster: clusterName, Options: o, Nodes: o.members(), Unloaded: o.Load}
	if err := p.prepare(ctx, s); err != nil {
		return nil, err
	}
	if err := p.found(ctx, s); err != nil {
		return nil, p.abandon(ctx, s, err)
	}
	c, err := p.connect(ctx, s)
	if err == nil {
		err = h.step("HEALTHY", func() error { return awaitHealthy(ctx, c) })
		err = errors.Join(err, c.Close())
	}
	if err != nil && ctx.Err() != nil {
		return nil, p.abandon(ctx, s, err)
	}
	s.Founded = true
	return p, errors.Join(err, p.saveContext(s), p.write(s))
}

// abandon ends the processes of a founding that broke off by err. Where it was interrupted that is the error, whatever was asked for at that moment.
func (p *Playground) abandon(ctx context.Context, s *state, err error) error {
	endErr := errors.Join(end(context.WithoutCancel(ctx), syscall.SIGINT, p.living(s)), p.write(s))
	if ctx.Err() != nil && endErr == nil {
		return themis.Errorf(themis.Deadline, "interrupted: no playground was founded in %s, and its processes have ended: %w", p.Dir, ctx.Err()).Do("themis-cli playground --data-dir %s", p.Dir)
	}
	return errors.Join(err, endErr)
}

// removeUnfinished ends and takes away what a founding left that broke off. A finished playground is not touched.
func (p *Playground) removeUnfinished(ctx context.Context) error {
	s, err := p.read()
	if s == nil || err != nil {
		return err
	}
	if s.Founded {
		return themis.Errorf(themis.RefusedUnsafe, "there is a playground in %s already", p.Dir).Do("themis-cli playground start --data-dir %s", p.Dir)
	}
	if err := p.adopt(s); err != nil {
		return err
	}
	if err := end(ctx, syscall.SIGINT, p.living(s)); err != nil {
		return err
	}
	return p.clear(s)
}

// prepare makes all files.
func (p *Playground) prepare(ctx context.Context, s *state) error {
	return p.host.step("ports, certificates and configuration made", func() error {
		if err := p.register(ctx, s, s.Nodes); err != nil {
			return err
		}
		var g errgroup.Group
		g.Go(func() error { return p.install(s) })
		g.Go(func() error { return p.certify(s) })
		g.Go(func() error { return p.configure(s.Nodes) })
		if err := g.Wait(); err != nil {
			return err
		}
		p.commands(s)
		return p.write(s)
	})
}

// found starts the processes and makes them a cluster.
func (p *Playground) found(ctx context.Context, s *state) error {
	err := p.host.step(fmt.Sprintf("%d processes started", len(s.Nodes)), func() error { return p.launch(ctx, s, pointers(s.Nodes)) })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, initWithin)
	defer cancel()
	c, err := p.connect(ctx, s)
	if err != nil {
		return err
	}
	err = p.host.step("cluster founded", func() error {
		mode, modes := s.Options.modes()
		r := client.InitRequest{
			Name: s.Cluster, Shards: s.Options.Shards, RF: s.Options.RF, K: s.Options.K, ControlNodes: s.Options.ControlNodes,
			Redundancy: s.Options.Redundancy, Mode: mode, Modes: modes,
		}
		for _, m := range s.Nodes {
			r.Nodes = append(r.Nodes, m.GRPC)
		}
		if _, err := c.Init(ctx, r); err != nil {
			return p.withLog(s, fmt.Errorf("found the cluster: %w", err))
		}
		return nil
	})
	return errors.Join(err, c.Close())
}

func pointers(list []member) []*member {
	out := make([]*member, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// living are the processes that run or are paused.
func (p *Playground) living(s *state) []running {
	var out []running
	for _, m := range s.Nodes {
		if p.look(m) != Stopped {
			out = append(out, running{m.Process, m.ID, m.command})
		}
	}
	return out
}

// launch starts the nodes' processes, all at once, writes down who they are, and waits until each answers on its ports.
func (p *Playground) launch(ctx context.Context, s *state, nodes []*member) error {
	if err := checkPorts(ctx, nodes); err != nil {
		return err
	}
	var faults []error
	for _, m := range nodes {
		if err := p.spawn(m); err != nil {
			faults = append(faults, fmt.Errorf("start %s: %w", m.ID, err))
			break
		}
	}
	if err := errors.Join(append(faults, p.write(s))...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, listenWithin)
	defer cancel()
	for _, m := range nodes {
		if err := p.awaitPorts(ctx, s, m); err != nil {
			return err
		}
	}
	return nil
}

// spawn starts a node in a session of its own: signals to this program's terminal don't reach it, and it outlives this program.
func (p *Playground) spawn(m *member) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()                                                                                 //nolint:errcheck // the child has its own
	log, err := os.OpenFile(p.path(string(m.ID), logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // a file of the playground
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	child, err := os.StartProcess(m.command[0], m.command, &os.ProcAttr{
		Dir: p.path(string(m.ID)), Env: environ(p.host.Environ), Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	defer child.Release() //nolint:errcheck // only a handle; look reaps
	run, err := processOf(child.Pid)
	if err != nil {
		return err
	}
	m.Process = &run
	return nil
}

// environ leaves out THEMIS_*: a node has its settings from its file alone.
func environ(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.HasPrefix(l, "THEMIS_") })
}

// awaitPorts waits until the node accepts connections, or has ended.
func (p *Playground) awaitPorts(ctx context.Context, s *state, m *member) error {
	for {
		open := true
		for _, addr := range []string{m.GRPC, m.HTTP} {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err != nil {
				open = false
				break
			}
			_ = c.Close()
		}
		if open {
			return nil
		}
		if p.look(*m) == Stopped {
			return p.withLog(s, themis.Errorf(themis.InvalidArgument, "%s ended right after its start", m.ID))
		}
		if !pause(ctx, pollEvery) {
			return p.withLog(s, themis.Errorf(themis.Deadline, "%s does not answer on %s: %w", m.ID, m.GRPC, ctx.Err()))
		}
	}
}

// withLog adds what the nodes that have ended said last.
func (p *Playground) withLog(s *state, err error) error {
	code := themis.CodeOf(err)
	text := err.Error()
	var logs []string
	for _, m := range s.Nodes {
		name := p.path(string(m.ID), logName)
		logs = append(logs, name)
		if p.look(m) != Stopped {
			continue
		}
		if last := tail(name, 3); len(last) > 0 {
			text += fmt.Sprintf("\n%s ended; its log ends with:\n  %s", m.ID, strings.Join(last, "\n  "))
		}
	}
	e := themis.Errorf(code, "%s", text)
	e.Err = err
	return e.Do("less %s", strings.Join(logs, " "))
}

// awaitHealthy waits until the report says HEALTHY.
func awaitHealthy(ctx context.Context, c *client.Client) error {
	wait, cancel := context.WithTimeout(ctx, healthWithin)
	defer cancel()
	var last health.Report
	var lastErr error
	for {
		r, err := c.Report(wait)
		if wait.Err() == nil {
			last, lastErr = r, err
		}
		if err == nil && r.Status == health.Healthy {
			return nil
		}
		if pause(wait, healthEvery) {
			continue
		}
		if ctx.Err() != nil {
			return themis.Errorf(themis.Deadline, "interrupted while the cluster came up: %w", ctx.Err())
		}
		return themis.Errorf(themis.Deadline, "not HEALTHY within %s: %s", healthWithin, summary(last, lastErr)).Do("themis-cli cluster health")
	}
}

func summary(r health.Report, err error) string {
	if err != nil {
		return err.Error()
	}
	var why []string
	for _, f := range r.Findings {
		if f.Severity != health.Info {
			why = append(why, fmt.Sprintf("%s %s: %s", f.Code, f.Subject, f.Why))
		}
	}
	return string(r.Status) + ": " + strings.Join(why, "; ")
}

// Start brings back what is stopped or paused, with all its data, and returns when the cluster is HEALTHY. It answers the nodes
// that were started or resumed; none: all ran already.
func (p *Playground) Start(ctx context.Context) ([]themis.NodeID, error) {
	var woken []themis.NodeID
	err := p.change(ctx, func(s *state) error {
		var idle []*member
		for i := range s.Nodes {
			m := &s.Nodes[i]
			switch p.look(*m) {
			case Paused:
				if err := m.Process.signal(m.command, syscall.SIGCONT); err != nil {
					return err
				}
				woken = append(woken, m.ID)
			case Stopped:
				idle = append(idle, m)
				woken = append(woken, m.ID)
			}
		}
		if len(idle) == 0 {
			return nil
		}
		if len(idle) == len(s.Nodes) { // all are down: the program may be this one now
			if err := p.install(s); err != nil {
				return err
			}
			p.commands(s)
		}
		return p.host.step(fmt.Sprintf("%d processes started", len(idle)), func() error { return p.launch(ctx, s, idle) })
	})
	if err != nil {
		return woken, err
	}
	return woken, p.AwaitHealthy(ctx)
}

// AwaitHealthy returns when the cluster is HEALTHY; DEADLINE says what it lacks.
func (p *Playground) AwaitHealthy(ctx context.Context) error {
	c, err := p.Client(ctx)
	if err != nil {
		return err
	}
	err = p.host.step("HEALTHY", func() error { return awaitHealthy(ctx, c) })
	return errors.Join(err, c.Close())
}
