package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/workload"
)

// item is one document of a source.
type item struct {
	n     int64 // its line from 1, or its row from 0
	key   string
	value []byte // its own
	err   error  // why it can't be written
}

// source is where the documents of a load come from.
type source interface {
	// each calls do for every document in order, from the first one on.
	each(ctx context.Context, do func(item) error) error
	// digest makes request ids the same for the same documents, and different for all others.
	digest(ctx context.Context) (string, error)
	// unit is what the documents are counted by: line or row.
	unit() string
	// unique answers whether no key comes twice.
	unique() bool
	// read is how much of it was read since each began, in bytes or rows, and how much there is; 0: not known.
	read() (done, whole int64)
}

// fileSource is a file of documents, one a line. Blank lines are none.
type fileSource struct {
	path, keyField, collection string
	stdin                      io.Reader // for -
	done, size                 atomic.Int64
}

func (s *fileSource) unit() string         { return "line" }
func (s *fileSource) unique() bool         { return false }
func (s *fileSource) read() (int64, int64) { return s.done.Load(), s.size.Load() }

// open opens the file and notes its size; stdin is the caller's. Reads end with ctx.
func (s *fileSource) open(ctx context.Context) (io.Reader, func(), error) {
	if s.path == "-" {
		return bounded(ctx, s.stdin), func() {}, nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, nil, themis.Errorf(themis.InvalidArgument, "%w", err)
	}
	s.done.Store(0)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		s.size.Store(info.Size())
	}
	return bounded(ctx, f), func() { _ = f.Close() }, nil //nolint:errcheck // only read from
}

func (s *fileSource) digest(ctx context.Context) (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s %s ", s.collection, s.keyField)
	if s.path != "-" {
		in, done, err := s.open(ctx)
		if err != nil {
			return "", err
		}
		defer done()
		if _, err := io.Copy(h, in); ctx.Err() != nil {
			return "", ctx.Err()
		} else if err != nil {
			return "", themis.Errorf(themis.InvalidArgument, "%w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

func (s *fileSource) each(ctx context.Context, do func(item) error) error {
	in, done, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	err = s.lines(in, func(n int64, line []byte) error {
		key, err := s.keyOf(line)
		return do(item{n, key, bytes.Clone(line), err})
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// lines calls do for every line that is not blank, without its end. A line that is too long comes with its beginning only.
func (s *fileSource) lines(in io.Reader, do func(n int64, line []byte) error) error {
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
		s.done.Add(read)
		if err != nil && !errors.Is(err, io.EOF) {
			return themis.Errorf(themis.InvalidArgument, "%s line %d: %w", s.path, n, err)
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
func (s *fileSource) keyOf(line []byte) (string, error) {
	if len(line) > themis.MaxDocumentBytes {
		return "", themis.Errorf(themis.TooLarge, "more than %d bytes (16 MiB), the most that a document may have", themis.MaxDocumentBytes)
	}
	if at, err := themis.CheckJSON(line); err != nil {
		return "", themis.Errorf(themis.InvalidArgument, "byte %d of the line: %w", at, err)
	}
	return themis.KeyOf(line, s.keyField)
}

// rowSource is a data set.
type rowSource struct {
	set  workload.Dataset
	seed uint64
	rows int64

	from  int64          // those below are stored already
	there map[int64]bool // and these
	done  atomic.Int64
}

func (s *rowSource) unit() string         { return "row" }
func (s *rowSource) unique() bool         { return true }
func (s *rowSource) read() (int64, int64) { return s.done.Load(), s.left() }

// left is how many rows each has.
func (s *rowSource) left() int64 { return s.rows - s.from - int64(len(s.there)) }

func (s *rowSource) digest(context.Context) (string, error) {
	return fmt.Sprintf("%s-%d", s.set, s.seed), nil
}

func (s *rowSource) each(_ context.Context, do func(item) error) error {
	s.done.Store(0)
	return s.numbers(func(n int64) error {
		err := do(item{n, s.set.Key(n), s.set.Row(s.seed, n), nil})
		s.done.Add(1)
		return err
	})
}

// numbers calls do for every row that is not stored already.
func (s *rowSource) numbers(do func(n int64) error) error {
	for n := s.from; n < s.rows; n++ {
		if s.there[n] {
			continue
		}
		if err := do(n); err != nil {
			return err
		}
	}
	return nil
}

// rest is what an earlier load has not written. What it has is found by reading: a row counts where its bytes are those of the data set.
func (s *rowSource) rest(ctx context.Context, c *client.Client, collection string) (*rowSource, error) {
	has := func(ctx context.Context, n int64) (bool, error) {
		d, err := c.Get(ctx, collection, s.set.Key(n))
		if themis.CodeOf(err) == themis.NotFound {
			return false, nil
		}
		return err == nil && bytes.Equal(d.Value, s.set.Row(s.seed, n)), err
	}
	from, seen, err := workload.Frontier(s.rows, func(n int64) (bool, error) { return has(ctx, n) })
	if err != nil {
		return nil, fmt.Errorf("look for what is there already: %w", err)
	}
	out := &rowSource{set: s.set, seed: s.seed, rows: s.rows, from: from, there: map[int64]bool{}}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for n := from; n < seen; n++ {
		g.Go(func() error {
			ok, err := has(ctx, n)
			if ok {
				mu.Lock()
				defer mu.Unlock()
				out.there[n] = true
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("look for what is there already: %w", err)
	}
	return out, nil
}
