package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	faultsShown = 100
	lineMax     = themis.MaxDocumentBytes + 1
	readers     = 64 // documents that are read back at once
)

// loader is one load on its way.
type loader struct {
	c    *client.Client
	path string
	f    loadFlags

	mu    sync.Mutex
	out   loadAnswer
	size  int64 // of the file in bytes; 0: not known
	read  int64 // of it
	doing string
}

// open opens the file and notes its size; stdin is the caller's.
func (l *loader) open(in io.Reader) (io.Reader, func(), error) {
	if l.path == "-" {
		return in, func() {}, nil
	}
	f, err := os.Open(l.path)
	if err != nil {
		return nil, nil, themis.Errorf(themis.InvalidArgument, "%w", err)
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		l.note(func() { l.size, l.read = info.Size(), 0 })
	}
	return f, func() { _ = f.Close() }, nil //nolint:errcheck // only read from
}

func (l *loader) note(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// lines calls do for every line that is not blank, without its end. A line that is too long comes with its beginning only.
func (l *loader) lines(in io.Reader, do func(n int64, line []byte) error) error {
	r := bufio.NewReaderSize(in, 1<<20)
	var line []byte
	for n := int64(1); ; n++ {
		line = line[:0]
		read, more, err := int64(0), true, error(nil)
		for more {
			var part []byte
			part, err = r.ReadSlice('\n')
			read += int64(len(part))
			if len(line) <= lineMax {
				line = append(line, part...)
			}
			more = errors.Is(err, bufio.ErrBufferFull)
		}
		l.note(func() { l.read += read })
		if err != nil && !errors.Is(err, io.EOF) {
			return themis.Errorf(themis.InvalidArgument, "%s line %d: %w", l.path, n, err)
		}
		if text := bytes.TrimRight(line, "\r\n"); len(bytes.TrimSpace(text)) > 0 {
			if err := do(n, text); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// keyOf finds the key of a line; the error says why there is none.
func (l *loader) keyOf(line []byte) (string, error) {
	if len(line) > themis.MaxDocumentBytes {
		return "", themis.Errorf(themis.TooLarge, "more than %d bytes (16 MiB), the most that a document may have", themis.MaxDocumentBytes)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil || fields == nil {
		return "", themis.Errorf(themis.InvalidArgument, "not a JSON object: %w", orNull(err))
	}
	raw, ok := fields[l.f.keyField]
	if !ok {
		return "", themis.Errorf(themis.InvalidArgument, "no field %q, which should hold the key", l.f.keyField)
	}
	var text string
	var number json.Number
	switch {
	case json.Unmarshal(raw, &text) == nil && raw[0] == '"':
	case json.Unmarshal(raw, &number) == nil && raw[0] != 'n':
		text = number.String()
	default:
		return "", themis.Errorf(themis.InvalidArgument, "field %q: want text or a number", l.f.keyField)
	}
	return text, themis.CheckKey(text)
}

func orNull(err error) error {
	if err == nil {
		return errors.New("null")
	}
	return err
}

// digest makes request ids the same for the same lines of the same file in the same run, and different for everything else.
func (l *loader) digest() (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s %s ", l.f.collection, l.f.keyField)
	if l.path != "-" {
		in, done, err := l.open(nil)
		if err != nil {
			return "", err
		}
		defer done()
		if _, err := io.Copy(h, in); err != nil {
			return "", themis.Errorf(themis.InvalidArgument, "%w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// errStopped ends a load that goes on in vain.
var errStopped = errors.New("stopped")

// write loads the file.
func (l *loader) write(ctx context.Context, in io.Reader) (err error) {
	began := time.Now()
	digest, err := l.digest()
	if err != nil {
		return err
	}
	src, done, err := l.open(in)
	if err != nil {
		return err
	}
	defer done()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w := l.c.NewWriter(client.WriterOptions{InFlight: l.f.workers, Concern: themis.WriteConcern(l.f.concern), Timeout: loadTimeout})
	defer w.Close()
	l.note(func() { l.doing = "written" })
	err = l.lines(src, func(n int64, line []byte) error {
		l.note(func() { l.out.Lines++ })
		key, err := l.keyOf(line)
		if err != nil {
			l.fault(n, key, err)
			return nil
		}
		value := bytes.Clone(line)
		id := client.RequestID(fmt.Sprintf("%s-%s-%d", l.out.Run, digest, n))
		err = w.Send(ctx, l.f.collection, key, value, func(_ client.Written, err error) {
			switch {
			case err == nil:
				l.note(func() { l.out.Written++; l.out.Bytes += int64(len(value)) })
			case ofTheLine(err):
				l.fault(n, key, err)
			default:
				l.fault(n, key, err)
				stop(fmt.Errorf("line %d: %w", n, err))
			}
		}, id)
		if ctx.Err() != nil {
			return errStopped
		}
		return err
	})
	if err == nil {
		err = w.Flush(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	w.Close()
	took := time.Since(began)
	l.note(func() {
		l.out.Duration, l.out.Rate = took.Milliseconds(), float64(l.out.Written)/max(took.Seconds(), 0.001)
	})
	return err
}

const loadTimeout = 60 * time.Second // of one document: longer than a failover with a rebuild

// ofTheLine answers whether only this line can't be written. Anything else would befall the next ones too.
func ofTheLine(err error) bool {
	switch themis.CodeOf(err) {
	case themis.InvalidArgument, themis.TooLarge, themis.RequestIDReused, themis.VersionMismatch:
		return true
	}
	return false
}

func (l *loader) fault(n int64, key string, err error) {
	l.note(func() {
		l.out.Failed++
		if len(l.out.Errors) < faultsShown {
			l.out.Errors = append(l.out.Errors, lineFault{n, key, themis.CodeOf(err), err.Error()})
		}
	})
}

// verify reads back what the file says and compares. Of several lines with one key the last one counts.
func (l *loader) verify(ctx context.Context) error {
	last := map[string]int64{}
	err := l.each(func(n int64, key string, _ []byte) error {
		last[key] = n
		return nil
	})
	if err != nil {
		return err
	}
	l.note(func() { l.out.Verified, l.out.Different, l.doing = new(int64), new(int64), "verified" })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(readers, l.f.workers))
	err = l.each(func(n int64, key string, line []byte) error {
		if last[key] != n {
			return nil
		}
		value := bytes.Clone(line)
		g.Go(func() error { return l.compare(ctx, n, key, value) })
		if ctx.Err() != nil {
			return errStopped
		}
		return nil
	})
	if waited := g.Wait(); waited != nil {
		return waited
	}
	return err
}

// each calls do for every line that has a key.
func (l *loader) each(do func(n int64, key string, line []byte) error) error {
	in, done, err := l.open(nil)
	if err != nil {
		return err
	}
	defer done()
	return l.lines(in, func(n int64, line []byte) error {
		key, err := l.keyOf(line)
		if err != nil {
			return nil //nolint:nilerr // such lines were never written
		}
		return do(n, key, line)
	})
}

func (l *loader) compare(ctx context.Context, n int64, key string, want []byte) error {
	d, err := l.c.Get(ctx, l.f.collection, key)
	switch {
	case themis.CodeOf(err) == themis.NotFound:
		l.different(n, key, "not there")
	case err != nil:
		return fmt.Errorf("read back line %d: %w", n, err)
	case !bytes.Equal(d.Value, want):
		l.different(n, key, fmt.Sprintf("%d bytes in the cluster, %d in the file", len(d.Value), len(want)))
	default:
		l.note(func() { *l.out.Verified++ })
	}
	return nil
}

func (l *loader) different(n int64, key, detail string) {
	l.note(func() {
		*l.out.Different++
		if len(l.out.Differences) < faultsShown {
			l.out.Differences = append(l.out.Differences, lineFault{Line: n, Key: key, Detail: detail})
		}
	})
}
