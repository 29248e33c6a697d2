package node

import (
	"bytes"
	"fmt"
	"math"
	"os/exec"
	"testing"
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
