package bench

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// The floor of replication is the least that any program must do for as many entries at once as there are writers: hand the very
// frames that the log would hold to two others over TLS 1.3, write them to a file and call fdatasync in all three processes, and
// wait for both answers. One goroutine does it at the leading end, in the order that wastes nothing: both sends first, then the
// own disk, while the others are at theirs, then the answers. No queue, no checksums, no documents.
//
//	leader    send A  send B  write fdatasync  wait A  wait B
//	follower  read the whole batch, write, fdatasync, answer with 8 bytes

// rawPeer is the following end.
type rawPeer struct {
	lis net.Listener
	dir string
}

func listenRaw(source *pki.Source, dir string) (*rawPeer, error) {
	lis, err := tls.Listen("tcp", "127.0.0.1:0", source.ServerConfig())
	if err != nil {
		return nil, fmt.Errorf("listen for the raw peer: %w", err)
	}
	return &rawPeer{lis, dir}, nil
}

func (p *rawPeer) addr() string { return p.lis.Addr().String() }

// run serves connections until ctx ends.
func (p *rawPeer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.lis.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	for i := 0; ; i++ {
		conn, err := p.lis.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept a raw connection: %w", err)
		}
		cut := context.AfterFunc(ctx, func() { _ = conn.Close() })
		all.Go(func() {
			defer cut()
			_ = p.follow(conn, filepath.Join(p.dir, fmt.Sprint("raw-follow-", i))) // the leader sees that it ended
		})
	}
}

// follow takes batches until the connection ends. Its first eight bytes say how long one is.
func (p *rawPeer) follow(conn net.Conn, name string) (err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	var head [8]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint64(head[:])
	if n == 0 || n > 1<<30 {
		return fmt.Errorf("a batch of %d bytes", n)
	}
	f, err := newRawFile(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.remove()) }()
	for batch := make([]byte, n); ; {
		if _, err := io.ReadFull(conn, batch); err != nil {
			return err
		}
		if err := f.append(batch); err != nil {
			return err
		}
		if _, err := conn.Write(head[:]); err != nil {
			return err
		}
	}
}

// rawFile is written and synced, nothing else.
type rawFile struct{ f *os.File }

func newRawFile(name string) (rawFile, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // below our own directory
	return rawFile{f}, err
}

func (r rawFile) append(b []byte) error {
	if _, err := r.f.Write(b); err != nil {
		return err
	}
	return fdatasync(r.f)
}

func (r rawFile) remove() error { return errors.Join(r.f.Close(), os.Remove(r.f.Name())) }

type rawArgs struct {
	Peers map[themis.NodeID]string // where their raw listeners are
	Dir   string
	Batch int // entries at once
	Bytes int // of a document
	For   time.Duration
}

// rawRound is the leading end.
func (w *worker) rawRound(ctx context.Context, a rawArgs) (_ any, err error) {
	frames := framesOf(a.Batch, a.Bytes)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			err = errors.Join(err, c.Close())
		}
	}()
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(len(frames)))
	for id, addr := range a.Peers {
		d := tls.Dialer{Config: w.source.ClientConfig(id, "")}
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", id, err)
		}
		conns = append(conns, c)
		if _, err := c.Write(head[:]); err != nil {
			return nil, err
		}
	}
	f, err := newRawFile(filepath.Join(a.Dir, "raw-lead"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.remove()) }()
	done, start := 0, time.Now()
	for time.Since(start) < a.For && ctx.Err() == nil {
		if err := rawOnce(conns, f, frames, head[:]); err != nil {
			return nil, err
		}
		done += a.Batch
	}
	return written{PerSecond: float64(done) / time.Since(start).Seconds()}, ctx.Err()
}

func rawOnce(conns []net.Conn, f rawFile, frames, answer []byte) error {
	for _, c := range conns {
		if _, err := c.Write(frames); err != nil {
			return err
		}
	}
	if err := f.append(frames); err != nil {
		return err
	}
	for _, c := range conns {
		if _, err := io.ReadFull(c, answer); err != nil {
			return err
		}
	}
	return nil
}

// framesOf is what the log would hold for that many writes.
func framesOf(n, size int) (b []byte) {
	for i := range n {
		e := themis.Entry{Kind: themis.KindWrite, Seq: themis.Seq(i + 1), Epoch: 1, Payload: themis.AppendOps(nil, []themis.Op{operation(i, 0, 0, size)})} //nolint:gosec // counts from 0
		b = wal.AppendFrame(b, &e)
	}
	return b
}
