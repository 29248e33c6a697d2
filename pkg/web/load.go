package web

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	maxWrites     = 64       // of one load, under way at once
	maxWriteBytes = 16 << 20 // of them together, but a single one may be as large as a document
	maxLoadErrors = 100
)

// loaded is the answer to a load.
type loaded struct {
	Written int         `json:"written"`
	Failed  int         `json:"failed"`
	Errors  []loadError `json:"errors"` // the first ones, by line
}

type loadError struct {
	Line   int         `json:"line"` // from 1 on
	Key    string      `json:"key"`  // empty: not known
	Code   themis.Code `json:"code"`
	Detail string      `json:"detail"`
}

// loader writes the lines of one load: many at once, but those of one key in their order.
type loader struct {
	s       *server
	request *nodev1.WriteRequest // without operations
	field   string
	timeout time.Duration
	atOnce  int // bytes; maxWriteBytes

	mu     sync.Mutex
	ended  *sync.Cond      // a write has
	busy   map[string]bool // keys of the writes that are under way
	bytes  int             // of them
	result loaded
}

// load writes every line of the body as a document.
func (s *server) load(w http.ResponseWriter, r *http.Request) {
	l, err := s.loaderOf(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	if !s.loads.take(1) {
		s.fail(w, themis.Errorf(themis.Overloaded, "this node runs %d loads already", s.loads.max).Do("wait, or send it to another node"))
		return
	}
	defer s.loads.give(1)
	body := &patientBody{r.Body, http.NewResponseController(w)}
	l.run(r.Context(), bufio.NewReaderSize(body, 64<<10))
	s.writeJSON(w, l.result)
}

func (s *server) loaderOf(r *http.Request) (*loader, error) {
	collection, err := collectionOf(r)
	if err != nil {
		return nil, err
	}
	p, err := query(r, "key_field", "write_concern", "timeout_ms")
	if err != nil {
		return nil, err
	}
	concern, err := p.concern()
	if err != nil {
		return nil, err
	}
	timeout, err := p.timeout()
	if err != nil {
		return nil, err
	}
	field, given := p["key_field"]
	switch {
	case !given:
		field = "_key"
	case field == "":
		return nil, themis.Errorf(themis.InvalidArgument, "key_field: empty")
	}
	id, err := requestID(r)
	if err != nil {
		return nil, err
	}
	if err := unconditional(r, "If-Match", "If-None-Match"); err != nil {
		return nil, err
	}
	l := &loader{
		s: s, field: field, timeout: timeout, atOnce: maxWriteBytes, busy: map[string]bool{}, result: loaded{Errors: []loadError{}},
		request: &nodev1.WriteRequest{Collection: collection, WriteConcern: concern, RequestId: id},
	}
	l.ended = sync.NewCond(&l.mu)
	return l, nil
}

// run reads the lines until the end, and returns when all writes have ended.
func (l *loader) run(ctx context.Context, lines *bufio.Reader) {
	var writes sync.WaitGroup
	defer writes.Wait()
	for number := 1; ; number++ {
		line, size, err := readLine(lines)
		if err != nil && !errors.Is(err, io.EOF) {
			l.failed(number, "", themis.Errorf(themis.CodeOf(broken(err)), "the body broke off in this line, which and what follows was not written: %w", err))
			return
		}
		l.line(ctx, &writes, number, line, size)
		if err != nil {
			return
		}
	}
}

// line begins the write of one line; it waits until there is room for it.
func (l *loader) line(ctx context.Context, writes *sync.WaitGroup, number int, line []byte, size int) {
	if size > themis.MaxDocumentBytes {
		l.failed(number, "", themis.Errorf(themis.TooLarge, "%d bytes; at most %d (16 MiB)", size, themis.MaxDocumentBytes))
		return
	}
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	if at, err := themis.CheckJSON(line); err != nil {
		l.failed(number, "", themis.Errorf(themis.InvalidArgument, "byte %d of the line: %w", at, err))
		return
	}
	key, err := themis.KeyOf(line, l.field)
	if err != nil {
		l.failed(number, key, err)
		return
	}
	l.mu.Lock()
	for l.busy[key] || len(l.busy) >= maxWrites || len(l.busy) > 0 && l.bytes+len(line) > l.atOnce {
		l.ended.Wait()
	}
	l.busy[key] = true
	l.bytes += len(line)
	l.mu.Unlock()
	writes.Go(func() { l.write(ctx, number, key, line) })
}

func (l *loader) write(ctx context.Context, number int, key string, line []byte) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	_, err := l.s.write(ctx, &nodev1.WriteRequest{
		Collection: l.request.GetCollection(), WriteConcern: l.request.GetWriteConcern(), RequestId: lineID(l.request.GetRequestId(), number),
		Operations: []*nodev1.Operation{{Key: key, Value: line}},
	})
	if err != nil {
		l.failed(number, key, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.result.Written++
	}
	delete(l.busy, key)
	l.bytes -= len(line)
	l.ended.Signal() // only the reader waits
}

// lineID is the request id of one line: a load that is sent again with its id changes nothing a second time.
func lineID(id string, number int) string {
	if id == "" {
		return ""
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(id), uint64(number))) //nolint:gosec // a line's number
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (l *loader) failed(number int, key string, err error) {
	err = l.s.ours(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.result.Failed++
	all := append(l.result.Errors, loadError{number, key, themis.CodeOf(err), clip(err.Error())})
	slices.SortFunc(all, func(a, b loadError) int { return cmp.Compare(a.Line, b.Line) })
	l.result.Errors = all[:min(len(all), maxLoadErrors)]
}

// clip keeps a detail short enough for a list of a hundred.
func clip(s string) string {
	const most = 500
	if len(s) <= most {
		return s
	}
	return string(bytes.ToValidUTF8([]byte(s[:most]), nil)) + "…"
}

// readLine reads a line without its newline. Of one that is larger than a document only the size is told, and memory holds no
// more than a document of it. The error comes with the last line.
func readLine(r *bufio.Reader) (line []byte, size int, err error) {
	for {
		part, err := r.ReadSlice('\n')
		part, whole := bytes.CutSuffix(part, []byte("\n"))
		if size += len(part); size <= themis.MaxDocumentBytes {
			line = append(line, part...)
		} else {
			line = nil
		}
		if whole || !errors.Is(err, bufio.ErrBufferFull) {
			return line, size, err
		}
	}
}

// patientBody is a body that may take any time, as long as something comes.
type patientBody struct {
	io.Reader
	control *http.ResponseController
}

func (b *patientBody) Read(p []byte) (int, error) {
	if err := b.control.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, fmt.Errorf("bound the time of a body: %w", err)
	}
	n, err := b.Reader.Read(p)
	if err == nil || errors.Is(err, io.EOF) { // over HTTP/2 it would end the body though nobody waits for the client
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
