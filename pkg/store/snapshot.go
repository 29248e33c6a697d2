package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/themisdb/themis/pkg/themis"
)

// Snapshot says what a checkpoint directory holds.
type Snapshot struct {
	ID       string          `json:"id,omitempty"` // of two checkpoints with one id all files are the same; empty: it has none
	Format   uint32          `json:"format"`       // FormatVersion of the store that made it
	Position themis.Position `json:"position"`
	HLC      themis.HLC      `json:"hlc"`
	Files    []File          `json:"files"` // by name
}

// File is one file of a checkpoint. Names have no directory part.
type File struct {
	Name   string       `json:"name"`
	Size   themis.Bytes `json:"size"`
	SHA256 string       `json:"sha256,omitempty"` // hexadecimal; empty: not known, see Hash
}

// Bytes is the size of all files.
func (s Snapshot) Bytes() themis.Bytes {
	n := themis.Bytes(0)
	for _, f := range s.Files {
		n += f.Size
	}
	return n
}

// Checkpoint makes dir, which must not exist and must be on the same file system, a copy of the store as it is now; tables are
// hard links, so it takes little time and, at first, little space. Apply waits only for the last, short step. The copy stays
// as it is until its owner removes it. An error leaves no dir behind.
func (s *Store) Checkpoint(dir string) (Snapshot, error) {
	if err := s.users.enter(); err != nil {
		return Snapshot{}, err
	}
	defer s.users.leave()
	snap, err := s.link(dir)
	if err != nil {
		return Snapshot{}, err
	}
	if snap.Files, err = listFiles(s.fs, dir); err != nil {
		return Snapshot{}, errors.Join(fmt.Errorf("checkpoint %s: %w", dir, err), s.fs.RemoveAll(dir))
	}
	return snap, nil
}

func (s *Store) link(dir string) (Snapshot, error) {
	if _, err := s.fs.Stat(dir); err == nil {
		return Snapshot{}, themis.Errorf(themis.InvalidArgument, "checkpoint %s: the directory exists", dir)
	}
	if err := s.flush(); err != nil { // most of the work, while entries still come in
		return Snapshot{}, err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.flush(); err != nil {
		return Snapshot{}, err
	}
	if err := s.db.Checkpoint(dir); err != nil {
		if pebble.IsCorruptionError(err) {
			return Snapshot{}, s.damaged("checkpoint", err)
		}
		return Snapshot{}, fmt.Errorf("checkpoint %s: %w", dir, err)
	}
	st := s.state.Load()
	return Snapshot{Format: FormatVersion, Position: st.position, HLC: st.hlc}, nil
}

func listFiles(fs vfs.FS, dir string) ([]File, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	files := make([]File, 0, len(names))
	for _, n := range names {
		info, err := fs.Stat(fs.PathJoin(dir, n))
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: n, Size: themis.Bytes(info.Size())})
	}
	return files, nil
}

// Hash reads the files of the checkpoint in dir and returns snap with their hashes. A size that isn't snap's is CORRUPT.
func Hash(dir string, snap Snapshot, o Options) (Snapshot, error) {
	o = o.withDefaults()
	files := slices.Clone(snap.Files)
	for i, f := range files {
		sum, err := hashFile(o.FS, dir, f, io.Discard)
		if err != nil {
			return Snapshot{}, fmt.Errorf("hash %s: %w", dir, err)
		}
		files[i].SHA256 = sum
	}
	snap.Files = files
	return snap, nil
}

// hashFile reads a file, writes it to w as well, compares it with what is known of it and returns its hash.
func hashFile(fs vfs.FS, dir string, want File, w io.Writer) (string, error) {
	f, err := fs.Open(fs.PathJoin(dir, want.Name), vfs.SequentialReadsOption)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(h, w), f)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("read %s: %w", want.Name, err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if themis.Bytes(n) != want.Size || want.SHA256 != "" && want.SHA256 != sum {
		return "", themis.Errorf(themis.Corrupt, "checkpoint file %s: %d bytes with SHA-256 %s, want %d with %s", want.Name, n, sum, want.Size, want.SHA256)
	}
	return sum, nil
}

// Beside a store's directory stand, during a replacement only: the new one while it is built, and the old one until the new
// one is in its place. The mark inside the new one says that it is whole.
const (
	suffixNew = ".installing"
	suffixOld = ".replaced"
	markWhole = "INSTALLED"
)

// Prepared is a whole new store beside the one that it is to replace.
type Prepared struct {
	dir  string
	want Snapshot
	o    Options
}

// Prepare builds beside dir, which may be open, the store that the checkpoint files in directory from hold. Every file is checked
// against want (size, and hash where want has one), and the result is opened once. from is left as it is; on the same file system its
// tables are linked, not copied, so nobody may change them afterwards, only remove them. Files that are missing, changed or in excess
// are CORRUPT, a checkpoint of a later format is UNIMPLEMENTED ("UPGRADE_NEEDED …").
func Prepare(dir, from string, want Snapshot, o Options) (*Prepared, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	if want.Format != FormatVersion {
		return nil, themis.Errorf(themis.Unimplemented, "UPGRADE_NEEDED: install %s: the checkpoint has format %d, this version knows %d", dir, want.Format, FormatVersion)
	}
	dir, err := absolute(o.FS, dir)
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", dir, err)
	}
	if err := recoverInstall(o.FS, dir); err != nil {
		return nil, fmt.Errorf("install %s: %w", dir, err)
	}
	p := &Prepared{dir, want, o}
	if err := stage(o, dir+suffixNew, from, want); err != nil {
		return nil, errors.Join(fmt.Errorf("install %s: %w", dir, err), p.Discard())
	}
	return p, nil
}

// Install puts the new store in the place of the old one, which must not be open, and drops that. After a crash at any point the next
// Open finds the old store or the new one, whole.
func (p *Prepared) Install() error {
	if err := notInUse(p.o.FS, p.dir); err != nil {
		return err
	}
	if err := swap(p.o.FS, p.dir); err != nil {
		return fmt.Errorf("install %s: %w", p.dir, err)
	}
	p.o.Logger.Info("store installed", "dir", p.dir, "seq", p.want.Position.Seq, "epoch", p.want.Position.Epoch, "lsn", p.want.Position.LSN)
	return nil
}

// Discard takes away a new store that was not installed.
func (p *Prepared) Discard() error { return p.o.FS.RemoveAll(p.dir + suffixNew) }

// Install is Prepare and the installation in one, for a dir that nobody has open.
func Install(dir, from string, want Snapshot, o Options) error {
	p, err := Prepare(dir, from, want, o)
	if err != nil {
		return err
	}
	return errors.Join(p.Install(), p.Discard())
}

func notInUse(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err != nil {
		return nil //nolint:nilerr // nothing there, nothing in use
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return themis.Errorf(themis.RefusedUnsafe, "store %s is in use: %w", dir, err).Do("close the store first")
	}
	return lock.Close()
}

// stage builds the new store beside the old one and marks it whole.
func stage(o Options, dir, from string, want Snapshot) error {
	fs := o.FS
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	names, err := fs.List(from)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !slices.ContainsFunc(want.Files, func(f File) bool { return f.Name == n }) {
			return themis.Errorf(themis.Corrupt, "checkpoint file %s is not listed", n)
		}
	}
	for _, f := range want.Files {
		if f.Name == "" || f.Name == "." || f.Name == ".." || strings.ContainsAny(f.Name, `/\`) {
			return themis.Errorf(themis.Corrupt, "checkpoint file %q: not a plain name", f.Name)
		}
		if !slices.Contains(names, f.Name) {
			return themis.Errorf(themis.Corrupt, "checkpoint file %s is missing", f.Name)
		}
		if err := bring(fs, from, dir, f); err != nil {
			return err
		}
	}
	if err := syncDir(fs, dir); err != nil {
		return err
	}
	if err := verify(o, dir, want); err != nil {
		return err
	}
	if err := writeFile(fs, fs.PathJoin(dir, markWhole), nil); err != nil {
		return err
	}
	return errors.Join(syncDir(fs, dir), syncDir(fs, fs.PathDir(dir)))
}

// bring puts one file into the new store, checked and on disk. Tables never change, so a link will do; the others are copied.
func bring(fs vfs.FS, from, to string, want File) error {
	target := fs.PathJoin(to, want.Name)
	if ext := path.Ext(want.Name); ext == ".sst" || ext == ".blob" {
		if err := vfs.LinkOrCopy(fs, fs.PathJoin(from, want.Name), target); err != nil {
			return err
		}
		if err := syncFile(fs, target); err != nil {
			return err
		}
		return checkFile(fs, to, want)
	}
	f, err := fs.Create(target, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = hashFile(fs, from, want, f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// checkFile reads the file only when there is a hash to compare with.
func checkFile(fs vfs.FS, dir string, want File) error {
	if want.SHA256 != "" {
		_, err := hashFile(fs, dir, want, io.Discard)
		return err
	}
	info, err := fs.Stat(fs.PathJoin(dir, want.Name))
	if err != nil {
		return err
	}
	if got := themis.Bytes(info.Size()); got != want.Size {
		return themis.Errorf(themis.Corrupt, "checkpoint file %s: %d bytes, want %d", want.Name, got, want.Size)
	}
	return nil
}

func syncFile(fs vfs.FS, name string) error {
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// verify opens the new store without writing to it and compares its position.
func verify(o Options, dir string, want Snapshot) error {
	s, err := open(dir, o, true)
	if err != nil {
		return err
	}
	got := s.Applied()
	if err := s.Close(); err != nil {
		return err
	}
	if got != want.Position {
		return themis.Errorf(themis.Corrupt, "the checkpoint is at seq %d of epoch %d, want %d of %d", got.Seq, got.Epoch, want.Position.Seq, want.Position.Epoch)
	}
	return nil
}

// swap puts the whole new store in the place of the old one. Each rename is on disk before the next.
func swap(fs vfs.FS, dir string) error {
	parent := fs.PathDir(dir)
	if _, err := fs.Stat(dir); err == nil {
		if err := fs.Rename(dir, dir+suffixOld); err != nil {
			return err
		}
		if err := syncDir(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.Rename(dir+suffixNew, dir); err != nil {
		return err
	}
	if err := syncDir(fs, parent); err != nil {
		return err
	}
	return clean(fs, dir)
}

// clean removes what a finished replacement leaves.
func clean(fs vfs.FS, dir string) error {
	if err := fs.RemoveAll(dir + suffixOld); err != nil {
		return err
	}
	if mark := fs.PathJoin(dir, markWhole); exists(fs, mark) {
		if err := fs.Remove(mark); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(fs, dir), syncDir(fs, fs.PathDir(dir)))
}

// recoverInstall finishes a replacement that a crash interrupted when the new store is whole, and else takes it back.
func recoverInstall(fs vfs.FS, dir string) error {
	var (
		here  = exists(fs, dir)
		newer = exists(fs, dir+suffixNew)
		older = exists(fs, dir+suffixOld)
		whole = exists(fs, fs.PathJoin(dir+suffixNew, markWhole))
	)
	switch {
	case !newer && !older && !exists(fs, fs.PathJoin(dir, markWhole)):
		return nil
	case here: // before the first rename, or after the second
		if err := fs.RemoveAll(dir + suffixNew); err != nil {
			return err
		}
		return clean(fs, dir)
	case whole:
		return swap(fs, dir)
	case older:
		if err := fs.Rename(dir+suffixOld, dir); err != nil {
			return err
		}
		if err := syncDir(fs, fs.PathDir(dir)); err != nil {
			return err
		}
	}
	if err := fs.RemoveAll(dir + suffixNew); err != nil {
		return err
	}
	return syncDir(fs, fs.PathDir(dir))
}

func exists(fs vfs.FS, name string) bool {
	_, err := fs.Stat(name)
	return err == nil
}

func writeFile(fs vfs.FS, name string, data []byte) error {
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(data))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
