package doctor

import (
	"flag"
	"os"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write docs/reference/doctor.md anew")

func TestPage(t *testing.T) {
	const file = "../../docs/reference/doctor.md"
	if *rewrite {
		if err := os.WriteFile(file, []byte(Page()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(readFile(t, file)); got != Page() {
		t.Errorf("%s is not what pkg/doctor says: go test ./pkg/doctor -run Page -rewrite", file)
	}
}
