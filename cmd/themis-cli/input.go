package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/themisdb/themis/pkg/themis"
)

const secretMax = 4096 // bytes

// secret is what must not stand in a command line, which every user of the machine can read: the first line of stdin where from is -, of a
// file behind @, else from itself. On a terminal it asks, and what is typed is not shown.
func (a *app) secret(ctx context.Context, from, what string) (string, error) {
	var b []byte
	var err error
	switch {
	case from == "-" && terminal(a.in):
		b, err = a.askSecret(ctx, what)
	case from == "-":
		b, err = io.ReadAll(io.LimitReader(bounded(ctx, a.in), secretMax))
	case strings.HasPrefix(from, "@"):
		b, err = readLimited(ctx, from[1:], secretMax)
	default:
		return from, nil
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", themis.Errorf(themis.InvalidArgument, "--%s %s: %w", what, from, err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return strings.TrimSpace(first), nil
}

func (a *app) askSecret(ctx context.Context, what string) ([]byte, error) {
	fd := int(a.in.(*os.File).Fd()) //nolint:gosec,forcetypeassert // a terminal is a file
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(a.errOut, "%s: ", what)
	type typed struct {
		text []byte
		err  error
	}
	read := make(chan typed, 1)
	go func() {
		b, err := term.ReadPassword(fd)
		read <- typed{b, err}
	}()
	defer func() { _, _ = fmt.Fprintln(a.errOut) }()
	select {
	case t := <-read:
		return t.text, t.err
	case <-ctx.Done():
		return nil, term.Restore(fd, before)
	}
}

const settingsMax = 4 << 20 // bytes of a file of settings

// readLimited reads at most limit bytes of a file. From a pipe it takes what is written there as long as ctx lasts.
func readLimited(ctx context.Context, path string, limit int64) ([]byte, error) {
	f, err := openFile(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	b, err := io.ReadAll(io.LimitReader(bounded(ctx, f), limit))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "%w", err)
	}
	return b, nil
}

// openFile opens a file to be read. That of a pipe waits for somebody who writes there, but ends with ctx.
func openFile(ctx context.Context, path string) (*os.File, error) {
	if err := readable(path); err != nil {
		return nil, err
	}
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := os.Open(path) //nolint:gosec // the user named it
		opened <- result{f, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, themis.Errorf(themis.InvalidArgument, "%w", r.err)
		}
		return r.f, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bounded is in as long as ctx lasts. A read that waits, as one of a terminal does, ends with ctx too; what it would have read is lost.
func bounded(ctx context.Context, in io.Reader) io.Reader { return &boundedReader{ctx: ctx, in: in} }

type boundedReader struct {
	ctx context.Context //nolint:containedctx // a reader has no other way to be told
	in  io.Reader
	buf []byte // of the read under way
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if len(b.buf) < len(p) {
		b.buf = make([]byte, len(p))
	}
	type result struct {
		n   int
		err error
	}
	read := make(chan result, 1)
	go func() {
		n, err := b.in.Read(b.buf[:len(p)])
		read <- result{n, err}
	}()
	select {
	case r := <-read:
		return copy(p, b.buf[:r.n]), r.err
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
}
