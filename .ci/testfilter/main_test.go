package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const okRun = `{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestA"}
{"Action":"output","Package":"m/a","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"m/a","Test":"TestA/x"}
{"Action":"pass","Package":"m/a","Test":"TestA"}
{"Action":"output","Package":"m/a","Output":"ok m/a 0.1s\n"}
{"Action":"pass","Package":"m/a","Elapsed":0.1}
{"Action":"start","Package":"m/none"}
{"Action":"skip","Package":"m/none"}
`

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		what, in  string
		code      int
		last      string
		want, not string
	}{
		{"all well", okRun, 0, "2 passed, 0 failed, 0 skipped", "ok    m/a", "chatter"},
		{"nothing ran", "", 1, "0 passed, 0 failed, 0 skipped", "", ""},
		{"only packages without tests", `{"Action":"skip","Package":"m/none"}`, 1, "0 passed, 0 failed, 0 skipped", "none  m/none", ""},
		{"a test fails", okRun + `{"Action":"output","Package":"m/b","Test":"TestB","Output":"    b_test.go:7: 3, want 4\n"}
{"Action":"fail","Package":"m/b","Test":"TestB"}
{"Action":"fail","Package":"m/b"}`, 1, "2 passed, 1 failed, 0 skipped", "b_test.go:7: 3, want 4", "chatter"},
		{"a skip is told with its reason", okRun + `{"Action":"output","Package":"m/b","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"m/b","Test":"TestB","Output":"    b_test.go:7: needs root\n"}
{"Action":"skip","Package":"m/b","Test":"TestB"}
{"Action":"pass","Package":"m/b"}`, 0, "2 passed, 0 failed, 1 skipped", "skip  m/b.TestB: b_test.go:7: needs root", ""},
		{"a package fails after its tests passed", okRun + `{"Action":"output","Package":"m/b","Test":"TestB","Output":"chatter\n"}
{"Action":"pass","Package":"m/b","Test":"TestB"}
{"Action":"output","Package":"m/b","Output":"found unexpected goroutines\n"}
{"Action":"fail","Package":"m/b"}`, 1, "3 passed, 1 failed, 0 skipped", "found unexpected goroutines", "chatter"},
		{"a panic in a test", okRun + `{"Action":"output","Package":"m/b","Test":"TestB","Output":"panic: deep\n"}
{"Action":"fail","Package":"m/b"}`, 1, "2 passed, 1 failed, 0 skipped", "panic: deep", ""},
		{"it does not build", okRun + `{"ImportPath":"m/b [m/b.test]","Action":"build-output","Output":"b.go:3: undefined: x\n"}
{"ImportPath":"m/b [m/b.test]","Action":"build-fail"}
{"Action":"start","Package":"m/b"}
{"Action":"fail","Package":"m/b","FailedBuild":"m/b [m/b.test]"}`, 1, "2 passed, 1 failed, 0 skipped", "undefined: x", ""},
		{"the stream breaks off", okRun + `{"Action":"start","Package":"m/b"}
{"Action":"pass","Package":"m/b","Test":"TestB"}`, 1, "3 passed, 1 failed, 0 skipped", "m/b never ended", ""},
		{"the go command speaks", okRun + "go: go.mod has a fault", 0, "2 passed, 0 failed, 0 skipped", "go: go.mod has a fault", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "results.json")
			var out, errOut bytes.Buffer
			code := run([]string{"-o", file}, strings.NewReader(c.in), &out, &errOut)
			if code != c.code {
				t.Errorf("exit code %d, want %d\n%s%s", code, c.code, &out, &errOut)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if got := lines[len(lines)-1]; got != c.last {
				t.Errorf("last line %q, want %q", got, c.last)
			}
			if !strings.Contains(out.String(), c.want) || c.not != "" && strings.Contains(out.String(), c.not) {
				t.Errorf("want %q and not %q in\n%s", c.want, c.not, &out)
			}
			if kept, err := os.ReadFile(file); err != nil || string(kept) != c.in {
				t.Errorf("the file holds %q, %v", kept, err)
			}
			out.Reset()
			if again := run([]string{"-count", file}, nil, &out, &errOut); again != c.code || out.String() != c.last+"\n" {
				t.Errorf("-count: exit code %d, %q", again, &out)
			}
		})
	}
}

// Two runs written to one file are counted together, and a file that isn't there is no pass.
func TestCount(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	var out, errOut bytes.Buffer
	run([]string{"-o", file}, strings.NewReader(okRun), &out, &errOut)
	run([]string{"-o", file}, strings.NewReader(okRun), &out, &errOut)
	out.Reset()
	if code := run([]string{"-count", file}, nil, &out, &errOut); code != 0 || out.String() != "4 passed, 0 failed, 0 skipped\n" {
		t.Errorf("exit code %d, %q", code, &out)
	}
	if code := run([]string{"-count", file + ".not"}, nil, &out, &errOut); code == 0 {
		t.Error("a missing file passed")
	}
}

// What a report may name: tests that passed as a whole, and all that were asked for.
func TestPassed(t *testing.T) {
	skipped := okRun + `{"Action":"skip","Package":"m/a","Test":"TestB/x/y"}
{"Action":"pass","Package":"m/a","Test":"TestB/x"}
{"Action":"pass","Package":"m/a","Test":"TestB/z"}
{"Action":"pass","Package":"m/a","Test":"TestB"}
`
	for _, c := range []struct{ what, in, named, want string }{
		{"with its parts", okRun, "TestA", "m/a.TestA\nm/a.TestA/x\n"},
		{"one with a skipped part is left out, other parts are not", skipped, "TestA", "m/a.TestA\nm/a.TestA/x\nm/a.TestB/z\n"},
		{"one with a skipped part was asked for", skipped, "TestA|TestB", "testfilter: these did not pass with all their parts, or are no tests: TestB\n"},
		{"one that is none was asked for", okRun, "TestOld|TestA|TestOlder", "testfilter: these did not pass with all their parts, or are no tests: TestOld, TestOlder\n"},
		{"one that never ended", okRun + `{"Action":"run","Package":"m/a","Test":"TestB"}`, "TestB", "testfilter: these did not pass with all their parts, or are no tests: TestB\n"},
		{"one that failed once of twice", okRun + `{"Action":"fail","Package":"m/a","Test":"TestA"}` + "\n" + okRun, "TestA", "testfilter: these did not pass with all their parts, or are no tests: TestA\n"},
		{"nothing ran", "", "TestA", "testfilter: these did not pass with all their parts, or are no tests: TestA\n"},
	} {
		t.Run(c.what, func(t *testing.T) {
			var out bytes.Buffer
			code := run([]string{"-passed", c.named}, strings.NewReader(c.in), &out, &out)
			if out.String() != c.want || (code == 0) == strings.HasPrefix(c.want, "testfilter:") {
				t.Errorf("exit code %d, want %q, got %q", code, c.want, &out)
			}
		})
	}
}
