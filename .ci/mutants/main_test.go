package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	const page = "# Guards\n\n| guard | test | what it protects |\n|---|---|---|\n| `a` | `pkg/x.TestA` | it |\n| `a` | `pkg/y.TestB` | the same |\n"
	for _, c := range []struct{ what, page, seen, want string }{
		{"every row was seen red", page, `{"red": ["a pkg/y.TestB", "a pkg/x.TestA"]}`, ""},
		{"a row was not", page, `{"red": ["a pkg/x.TestA"]}`, "a pkg/y.TestB has not been seen red"},
		{"only another test of the same guard was", page, `{"red": ["a pkg/x.TestA", "a pkg/x.TestA"]}`, "a pkg/y.TestB has not been seen red"},
		{"a row is gone", page, `{"red": ["a pkg/x.TestA", "a pkg/y.TestB", "b pkg/x.TestA"]}`, `tells of "b pkg/x.TestA", of which`},
		{"a row stands twice", page + "| `a` | `pkg/x.TestA` | again |\n", `{"red": ["a pkg/x.TestA", "a pkg/y.TestB"]}`, "two rows of a pkg/x.TestA"},
		{"no rows", "# Guards\n", `{"red": []}`, "has no rows"},
		{"a broken report", page, "{", "unexpected end"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			guards, seen := filepath.Join(dir, "guards.md"), filepath.Join(dir, "seen.json")
			for name, text := range map[string]string{guards: c.page, seen: c.seen} {
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := check(guards, seen)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}
