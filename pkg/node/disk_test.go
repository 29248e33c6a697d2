package node

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The used share is the one that df shows.
func TestDiskUsedAsDfCounts(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("df", "--output=pcent,avail", "-B1", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	var percent float64
	var avail int64
	if _, err := fmt.Sscanf(string(out[bytes.IndexByte(out, '\n')+1:]), "%f%% %d", &percent, &avail); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	used, free := diskUsed(dir)
	if used == nil || math.Abs(*used*100-percent) > 2 || math.Abs(float64(*free)-float64(avail)) > 2<<30 {
		t.Errorf("%v used, %v free; df says %s", used, free, out)
	}
}

// Where a file system can't hold room for a file, zeros hold it.
func TestWriteZerosTakesItsRoom(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), ballastName))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	const kept, size = 3, 5<<20 + 7
	if _, err = f.WriteString("old"); err == nil {
		err = errors.Join(writeZeros(f, kept, size), f.Sync())
	}
	var st unix.Stat_t
	if err = errors.Join(err, unix.Fstat(int(f.Fd()), &st)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil || string(b) != "old"+strings.Repeat("\x00", size-kept) {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	if st.Blocks*512 < size {
		t.Errorf("%d bytes take %d on the disk", size, st.Blocks*512)
	}
}
