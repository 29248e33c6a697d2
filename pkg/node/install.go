package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/replication"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const installChunk = 1 << 20

// Install implements replication.Transport: every file in chunks with a checksum each, and a digest of the whole.
func (t *transport) Install(ctx context.Context, to cluster.Member, h replication.Hello, snap store.Snapshot, dir string, progress func(themis.Bytes)) error {
	c, err := t.client(ctx, to.Node, "install")
	if err != nil {
		return err
	}
	has, err := held(ctx, c, h, snap, dir)
	if err != nil {
		return err
	}
	s, err := c.Install(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&nodev1.InstallRequest{Hello: helloOut(h), SnapshotId: snap.ID}); err != nil {
		return closing(s, err)
	}
	sent := themis.Bytes(0)
	for _, there := range has {
		sent += there
	}
	progress(sent)
	for _, f := range snap.Files {
		there, some := has[f.Name]
		if some && there == f.Size {
			continue
		}
		if err := sendFile(s, filepath.Join(dir, f.Name), f, there, &sent, progress); err != nil {
			return closing(s, err)
		}
	}
	end := &nodev1.InstallEnd{
		Seq: uint64(snap.Position.Seq), Epoch: uint64(snap.Position.Epoch), Lsn: uint64(snap.Position.LSN),
		Files: uint64(len(snap.Files)), Bytes: uint64(snap.Bytes()), Format: snap.Format, Hlc: uint64(snap.HLC), //nolint:gosec // never negative
	}
	if err := s.Send(&nodev1.InstallRequest{End: end}); err != nil {
		return closing(s, err)
	}
	_, err = s.CloseAndRecv()
	return err
}

// held is how much of which files need not be sent: what the follower has of this very checkpoint, byte for byte.
func held(ctx context.Context, c nodev1.ReplicationServiceClient, h replication.Hello, snap store.Snapshot, dir string) (map[string]themis.Bytes, error) {
	out := map[string]themis.Bytes{}
	if snap.ID == "" {
		return out, nil
	}
	resp, err := c.Held(ctx, &nodev1.HeldRequest{Hello: helloOut(h), SnapshotId: snap.ID})
	if themis.CodeOf(err) == themis.Unimplemented {
		return out, nil // an older version
	}
	if err != nil {
		return nil, err
	}
	there := map[string]*nodev1.HeldFile{}
	for _, f := range resp.GetFiles() {
		there[f.GetName()] = f
	}
	for _, f := range snap.Files {
		is := there[f.Name]
		if is == nil || is.GetBytes() > uint64(f.Size) { //nolint:gosec // a file's size
			continue
		}
		have := themis.Bytes(is.GetBytes()) //nolint:gosec // not more than a file's size
		sum, err := digestOf(filepath.Join(dir, f.Name), have)
		if err != nil {
			return nil, err
		}
		if sum == is.GetDigest() || !guard.On(guard.InstallPieces) {
			out[f.Name] = have
		}
	}
	return out, nil
}

// digestOf is the SHA-256 of a file's first n bytes, in hexadecimal.
func digestOf(name string, n themis.Bytes) (string, error) {
	f, err := os.Open(name) //nolint:gosec // our own checkpoint
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	_, err = io.CopyN(sum, f, int64(n))
	return hex.EncodeToString(sum.Sum(nil)), err
}

// closing is the follower's own word on why it ended the stream, where there is one.
func closing(s grpc.ClientStreamingClient[nodev1.InstallRequest, nodev1.InstallResponse], err error) error {
	if errors.Is(err, io.EOF) {
		_, err = s.CloseAndRecv()
	}
	return err
}

func sendFile(s grpc.ClientStreamingClient[nodev1.InstallRequest, nodev1.InstallResponse], name string, want store.File, from themis.Bytes, sent *themis.Bytes, progress func(themis.Bytes)) error {
	f, err := os.Open(name) //nolint:gosec // our own checkpoint
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, int64(from)); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	for off := uint64(from); ; { //nolint:gosec // a file's size
		buf := make([]byte, installChunk)
		n, err := io.ReadFull(f, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return fmt.Errorf("read %s: %w", name, err)
		}
		sum.Write(buf[:n])
		m := &nodev1.InstallRequest{File: want.Name, Offset: off, Data: buf[:n], Crc32: crc32.Checksum(buf[:n], castagnoli), EndOfFile: last}
		if last {
			m.Digest = hex.EncodeToString(sum.Sum(nil))
		}
		if err := s.Send(m); err != nil {
			return err
		}
		off += uint64(n)
		*sent += themis.Bytes(n)
		progress(*sent)
		if last {
			return nil
		}
	}
}

// Install implements the service: what comes is kept aside until all of it is there and checked.
func (s *replicationService) Install(stream grpc.ClientStreamingServer[nodev1.InstallRequest, nodev1.InstallResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHello() == nil {
		return themis.Errorf(themis.InvalidArgument, "hello: missing in the first message")
	}
	h := helloIn(first.GetHello())
	if err := s.may(stream.Context(), h); err != nil {
		return err
	}
	r, err := s.get(h.Shard)
	if err == nil {
		err = r.Takes()
	}
	if err != nil {
		return err
	}
	in, err := newReceiver(s.dir(h.Shard), first.GetSnapshotId())
	if err != nil {
		return fmt.Errorf("install %s: %w", h.Shard, err)
	}
	end, err := in.all(stream)
	if err != nil {
		if first.GetSnapshotId() == "" {
			err = errors.Join(err, os.RemoveAll(in.dir))
		}
		return err // what came whole stays, for the next try
	}
	defer func() { _ = os.RemoveAll(in.dir) }()
	snap := store.Snapshot{
		Format:   end.GetFormat(),
		Position: themis.Position{Seq: themis.Seq(end.GetSeq()), Epoch: themis.Epoch(end.GetEpoch()), LSN: themis.LSN(end.GetLsn())},
		HLC:      themis.HLC(end.GetHlc()), Files: in.list(),
	}
	if uint64(len(snap.Files)) != end.GetFiles() || uint64(snap.Bytes()) != end.GetBytes() { //nolint:gosec // never negative
		return themis.Errorf(themis.Corrupt, "install %s: %d files of %d bytes came, %d of %d were sent", h.Shard, len(snap.Files), snap.Bytes(), end.GetFiles(), end.GetBytes())
	}
	if err := r.Install(h, snap, in.files()); err != nil {
		return err
	}
	return stream.SendAndClose(&nodev1.InstallResponse{DurableSeq: end.GetSeq()})
}

// Held implements the service.
func (s *replicationService) Held(ctx context.Context, req *nodev1.HeldRequest) (*nodev1.HeldResponse, error) {
	if req.GetHello() == nil {
		return nil, themis.Errorf(themis.InvalidArgument, "hello: missing")
	}
	h := helloIn(req.GetHello())
	if err := s.may(ctx, h); err != nil {
		return nil, err
	}
	if _, err := s.get(h.Shard); err != nil {
		return nil, err
	}
	in, err := newReceiver(s.dir(h.Shard), req.GetSnapshotId())
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", h.Shard, err)
	}
	out := &nodev1.HeldResponse{}
	for _, f := range slices.Concat(in.list(), slices.Collect(maps.Values(in.part))) {
		out.Files = append(out.Files, &nodev1.HeldFile{Name: f.Name, Bytes: uint64(f.Size), Digest: f.SHA256}) //nolint:gosec // a file's size
	}
	return out, nil
}

// receiver writes the files of a checkpoint:
//
//	install-<id>/files/         those that came whole and are on disk
//	install-<id>/coming-<name>  the one that is coming
//
// Both stay when the stream breaks, and what the primary has, too, need not come again: of the last one, whole chunks.
// The id is the checkpoint's. What came of any other one is removed when a new one begins, so that no two are ever mixed.
type receiver struct {
	dir  string
	done map[string]store.File // in files/
	part map[string]store.File // how much may be gone on with, below coming-

	f    *os.File
	name string
	size uint64
	sum  hash.Hash
}

const (
	installPrefix = "install-"
	comingPrefix  = "coming-"
)

// newReceiver looks what there is of the checkpoint below dir; an empty id is of one that nothing is kept of.
func newReceiver(dir, id string) (*receiver, error) {
	if len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return !('0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z') }) {
		return nil, themis.Errorf(themis.InvalidArgument, "snapshot_id %.70q: want at most 64 letters and digits", id)
	}
	if !guard.On(guard.InstallPieces) {
		id = "any"
	}
	if err := dropReceived(dir, id); err != nil {
		return nil, err
	}
	r := &receiver{dir: filepath.Join(dir, installPrefix+id), done: map[string]store.File{}, part: map[string]store.File{}}
	if id == "" {
		var err error
		if r.dir, err = os.MkdirTemp(dir, installPrefix+"*"); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(r.files(), 0o700); err != nil {
		return nil, err
	}
	var err error
	if r.done, err = filesIn(r.files(), "", func(size themis.Bytes) themis.Bytes { return size }); err != nil {
		return nil, err
	}
	// the last chunk comes in any case: with it comes the word that it is the last
	r.part, err = filesIn(r.dir, comingPrefix, func(size themis.Bytes) themis.Bytes { return max(0, size-1) / installChunk * installChunk })
	return r, err
}

// filesIn are the files of a directory whose names begin so, by the rest of the name, each as far as upTo says.
func filesIn(dir, prefix string, upTo func(size themis.Bytes) themis.Bytes) (map[string]store.File, error) {
	out := map[string]store.File{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ours := strings.CutPrefix(e.Name(), prefix)
		if !ours || e.IsDir() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		f := store.File{Name: name, Size: upTo(themis.Bytes(info.Size()))}
		if f.SHA256, err = digestOf(filepath.Join(dir, e.Name()), f.Size); err != nil {
			return nil, err
		}
		out[name] = f
	}
	return out, nil
}

// dropReceived removes what came of all checkpoints but one.
func dropReceived(dir, but string) error {
	left, err := filepath.Glob(filepath.Join(dir, installPrefix+"*"))
	for _, name := range left {
		if err == nil && (but == "" || filepath.Base(name) != installPrefix+but) {
			err = os.RemoveAll(name)
		}
	}
	return err
}

func (r *receiver) files() string { return filepath.Join(r.dir, "files") }

// list is what came whole, by name.
func (r *receiver) list() (out []store.File) {
	for _, name := range slices.Sorted(maps.Keys(r.done)) {
		out = append(out, r.done[name])
	}
	return out
}

func (r *receiver) all(stream grpc.ClientStreamingServer[nodev1.InstallRequest, nodev1.InstallResponse]) (*nodev1.InstallEnd, error) {
	defer func() {
		if r.f != nil {
			_ = r.f.Close()
		}
	}()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, themis.Errorf(themis.InvalidArgument, "the checkpoint ends without its end")
		}
		if err != nil {
			return nil, err
		}
		if m.GetEnd() != nil {
			if r.f != nil {
				return nil, themis.Errorf(themis.Corrupt, "%s: cut short", r.name)
			}
			return m.GetEnd(), nil
		}
		if err := r.chunk(m); err != nil {
			return nil, err
		}
	}
}

func (r *receiver) chunk(m *nodev1.InstallRequest) error {
	if r.f == nil {
		if m.GetFile() == "" || filepath.Base(m.GetFile()) != m.GetFile() {
			return themis.Errorf(themis.InvalidArgument, "file %q: want a plain name", m.GetFile())
		}
		if err := r.begin(m.GetFile(), themis.Bytes(m.GetOffset())); err != nil { //nolint:gosec // compared with what is there
			return fmt.Errorf("receive %s: %w", m.GetFile(), err)
		}
	}
	switch {
	case m.GetFile() != r.name || m.GetOffset() != r.size:
		return themis.Errorf(themis.Corrupt, "%s at %d where %s at %d belongs", m.GetFile(), m.GetOffset(), r.name, r.size)
	case crc32.Checksum(m.GetData(), castagnoli) != m.GetCrc32():
		return themis.Errorf(themis.Corrupt, "%s at %d: checksum does not match", r.name, r.size)
	}
	if _, err := r.f.WriteAt(m.GetData(), int64(r.size)); err != nil { //nolint:gosec // a file's size
		return fmt.Errorf("receive %s: %w", r.name, err)
	}
	r.sum.Write(m.GetData())
	r.size += uint64(len(m.GetData()))
	if !m.GetEndOfFile() {
		return nil
	}
	digest := hex.EncodeToString(r.sum.Sum(nil))
	if digest != m.GetDigest() {
		return themis.Errorf(themis.Corrupt, "%s: digest does not match", r.name)
	}
	err := r.f.Truncate(int64(r.size)) //nolint:gosec // a file's size
	if err == nil {
		err = r.f.Sync()
	}
	if err = errors.Join(err, r.f.Close()); err == nil {
		err = os.Rename(r.f.Name(), filepath.Join(r.files(), r.name))
	}
	if err == nil {
		err = syncDir(r.files())
	}
	r.f = nil
	r.done[r.name] = store.File{Name: r.name, Size: themis.Bytes(r.size), SHA256: digest} //nolint:gosec // a file's size
	return err
}

// begin opens the file that comes next: anew, or behind as much of it as was there.
func (r *receiver) begin(name string, at themis.Bytes) error {
	if at > 0 && r.part[name].Size != at {
		return themis.Errorf(themis.Corrupt, "it goes on at %d, %d bytes are there", at, r.part[name].Size)
	}
	if _, twice := r.done[name]; twice { // not what the primary has
		delete(r.done, name)
		if err := os.Remove(filepath.Join(r.files(), name)); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(r.dir, comingPrefix+name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	r.f, r.name, r.size, r.sum = f, name, uint64(at), sha256.New() //nolint:gosec // a file's size
	_, err = io.CopyN(r.sum, f, int64(at))
	return err
}
