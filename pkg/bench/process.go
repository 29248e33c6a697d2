package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/themisdb/themis/pkg/themis"
)

// Host is how processes of this benchmark are started: Binary with Args runs Work.
type Host struct {
	Binary  string
	Args    []string
	Environ []string
}

// request is one line to a worker, answer its answer.
type request struct {
	Do   string          `json:"do"`
	Args json.RawMessage `json:"args"`
}

type answer struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// process is a worker as its parent sees it. One goroutine asks at a time.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	log  *tail
}

// start starts a worker; it ends with ctx, or with stop.
func (h Host) start(ctx context.Context, name string) (*process, error) {
	cmd := exec.CommandContext(ctx, h.Binary, h.Args...) //nolint:gosec // this program
	cmd.Env = h.Environ
	p := &process{name: name, cmd: cmd, log: &tail{}}
	cmd.Stderr = p.log
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.in, p.out = in, json.NewDecoder(out)
	return p, nil
}

// ask has the worker do something and waits for its answer.
func (p *process) ask(do string, args, result any) error {
	b, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.name, do, err)
	}
	var a answer
	if err = json.NewEncoder(p.in).Encode(request{Do: do, Args: b}); err == nil {
		err = p.out.Decode(&a)
	}
	switch {
	case err != nil:
		return themis.Errorf(themis.Internal, "%s: %s: the process ended: %w; it said: %s", p.name, do, err, p.log)
	case a.Error != "":
		return themis.Errorf(themis.Internal, "%s: %s: %s", p.name, do, a.Error)
	case result == nil:
		return nil
	}
	return json.Unmarshal(a.Result, result)
}

// stop ends the worker's input and waits until it has ended.
func (p *process) stop() error {
	err := p.in.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if wait := p.cmd.Wait(); wait != nil {
		return errors.Join(err, fmt.Errorf("%s: %w; it said: %s", p.name, wait, p.log))
	}
	return err
}

// kill ends it at once, as a crash would.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
	return err
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 4096

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-tailBytes):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// Work is a benchmark's process: it does what the lines of in ask for, and answers each with a line on out, until in ends.
func Work(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	w := &worker{}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		err = errors.Join(err, w.close())
	}()
	lines, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		if err := lines.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read a request: %w", err)
		}
		if err := answers.Encode(w.answer(ctx, r)); err != nil {
			return fmt.Errorf("write an answer: %w", err)
		}
	}
}

func (w *worker) answer(ctx context.Context, r request) (a answer) {
	do := w.verbs()[r.Do]
	if do == nil {
		return answer{Error: fmt.Sprintf("unknown request %q", r.Do)}
	}
	v, err := do(ctx, r.Args)
	if err == nil {
		a.Result, err = json.Marshal(v)
	}
	if err != nil {
		return answer{Error: err.Error()}
	}
	return a
}

type verb func(ctx context.Context, args json.RawMessage) (any, error)

// with reads a verb's arguments.
func with[A any](do func(context.Context, A) (any, error)) verb {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var args A
		if err := json.Unmarshal(raw, &args); err != nil {
			return nil, err
		}
		return do(ctx, args)
	}
}
