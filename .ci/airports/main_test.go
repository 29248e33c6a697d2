package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"unicode/utf8"
)

// The committed file is the one that testdata/README.md describes, and every line can be loaded.
func TestCommittedFile(t *testing.T) {
	data, err := os.ReadFile("../../testdata/airports.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../testdata/README.md")
	if err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(data)); !bytes.Contains(readme, []byte(sum)) {
		t.Errorf("testdata/README.md does not name the digest %s", sum)
	}
	last, n := "", 0
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); n++ {
		var d document
		dec := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&d); err != nil {
			t.Fatalf("line %d: %v", n+1, err)
		}
		if d.Key <= last {
			t.Errorf("line %d: key %q after %q", n+1, d.Key, last)
		}
		if d.Name == "" || !utf8.Valid(lines.Bytes()) {
			t.Errorf("line %d: no name, or not UTF-8", n+1)
		}
		last = d.Key
	}
	if n < 5000 {
		t.Errorf("%d documents, want at least 5000", n)
	}
}
