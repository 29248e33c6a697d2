package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const goodReport = `{"command": "go test -run Crash", "commit": "HEAD-COMMIT", "seed": 7, "date": "2026-11-20T10:00:00Z", "tests": ["pkg/wal.TestLong"]}`

func event(action, test string) string {
	return `{"Action":"` + action + `","Package":"github.com/themisdb/themis/pkg/wal","Test":"` + test + `"}` + "\n"
}

func TestStatusCheck(t *testing.T) {
	const ids = "REP-01\nREP-02\n"
	line2 := "| REP-02 | missing | |\n"
	head := history(t)
	for _, c := range []struct{ what, status, results, report, want string }{
		{"nothing claimed", "# Status\n\n| ID | state | test(s) or note |\n|---|---|---|\n| REP-01 | missing | |\n" + line2, "", "", ""},
		{"shown in this run", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, event("pass", "TestA"), "", ""},
		{"two tests and a note", "| REP-01 | done | `pkg/wal.TestA`, `pkg/wal.TestB/x` of 9 `frames` |\n" + line2, event("pass", "TestA") + event("pass", "TestB/x"), "", ""},
		{"shown in a report", "| REP-01 | done | `pkg/wal.TestLong` |\n" + line2, event("pass", "TestA") + event("skip", "TestLong"), goodReport, ""},
		{"a part shown in a report", "| REP-01 | done | `pkg/wal.TestLong/x/y` |\n" + line2, event("skip", "TestLong"), strings.Replace(goodReport, "TestLong", "TestLong/x/y", 1), ""},
		{"among the go command's words", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, "go: downloading\n" + event("pass", "TestA") + "{", "", ""},
		{"thin, by a note", "| REP-01 | thin | no timeouts |\n" + line2, "", "", ""},

		{"no test named", "| REP-01 | done | it works |\n" + line2, event("pass", "TestA"), "", "REP-01: done, but no test is named"},
		{"a test that is none", "| REP-01 | done | `pkg/wal` |\n" + line2, event("pass", "TestA"), "", "no test is named"},
		{"it did not run", "| REP-01 | done | `pkg/wal.TestB` |\n" + line2, event("pass", "TestA"), "", "pkg/wal.TestB did not run"},
		{"it ran in another room", "| REP-01 | done | `pkg/store.TestA` |\n" + line2, event("pass", "TestA"), "", "pkg/store.TestA did not run"},
		{"it never ended", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, event("run", "TestA"), "", "TestA did not run"},
		{"it failed", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, event("fail", "TestA"), "", "TestA failed"},
		{"it failed once of twice", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, event("fail", "TestA") + event("pass", "TestA"), "", "TestA failed"},
		{"it passed, then failed", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, event("pass", "TestA") + event("fail", "TestA"), "", "TestA failed"},
		{"it was skipped", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, event("skip", "TestA"), "", "TestA was skipped"},
		{"it was skipped, but is shown in a report", "| REP-01 | done | `pkg/wal.TestLong` |\n" + line2, event("skip", "TestLong"), goodReport, ""},
		{"a part was skipped", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, event("skip", "TestA/x/y") + event("pass", "TestA/x") + event("pass", "TestA"), "", "has a part that was skipped: pkg/wal.TestA/x/y"},
		{"a seed of a fuzz target failed", "| REP-01 | done | `pkg/wal.FuzzA` |\n" + line2, event("fail", "FuzzA/seed#0") + event("pass", "FuzzA"), "", "has a part that failed: pkg/wal.FuzzA/seed#0"},
		{"only one of two passed", "| REP-01 | done | `pkg/wal.TestA` `pkg/wal.TestB` |\n" + line2, event("pass", "TestA"), "", "TestB did not run"},
		{"a thin line's test is gone", "| REP-01 | thin | `pkg/wal.TestOld` |\n" + line2, event("pass", "TestA"), "", "TestOld did not run"},
		{"this run outweighs a report", "| REP-01 | done | `pkg/wal.TestLong` |\n" + line2, event("fail", "TestLong"), goodReport, "TestLong failed"},
		{"an unknown ID", "| REP-01 | missing | |\n" + line2 + "| REP-99 | missing | |\n", "", "", "REP-99: there is no such requirement"},
		{"an ID is missing", "| REP-01 | missing | |\n", "", "", "REP-02 has no line"},
		{"an ID twice", "| REP-01 | missing | |\n| REP-01 | missing | |\n" + line2, "", "", "line 2: REP-01: stands on line 1 already"},
		{"an unknown state", "| REP-01 | nearly | |\n" + line2, "", "", `state "nearly"`},
		{"a report's test is gone", "| REP-01 | done | `pkg/wal.TestLong` |\n" + line2, event("pass", "TestA"), goodReport, "TestLong is in a report, but there is no such test any more"},
		{"a report's test is gone from one room", "| REP-01 | done | `pkg/wal.TestLong` |\n" + line2, strings.Replace(event("skip", "TestLong"), "/wal", "/store", 1), goodReport, "no such test any more"},
		{"a report's part is gone", "| REP-01 | done | `pkg/wal.TestLong/x` |\n" + line2, event("pass", "TestLong"), strings.Replace(goodReport, "TestLong", "TestLong/x", 1), "TestLong/x is in a report, but there is no such test any more"},
		{"a report's test is gone that no line names", line2 + "| REP-01 | missing | |\n", event("pass", "TestA"), goodReport, ""},
		{"a torn line", "| REP-01 | missing |\n" + line2, "", "", "line 1 is not"},
		{"a line that is no requirement", "| REP-1a | missing | |\n" + line2, "", "", "line 1 is not"},
		{"a report without a seed", line2, "", strings.Replace(goodReport, `"seed": 7, `, "", 1), "no seed"},
		{"a report without a date", line2, "", strings.Replace(goodReport, `"date": "2026-11-20T10:00:00Z", `, "", 1), "no date"},
		{"a report without a commit", line2, "", strings.Replace(goodReport, "HEAD-COMMIT", "HEAD", 1), "commit is not"},
		{"a report without a command", line2, "", strings.Replace(goodReport, "go test -run Crash", "", 1), "no command"},
		{"a report without tests", line2, "", strings.Replace(goodReport, `"pkg/wal.TestLong"`, "", 1), "no tests"},
		{"a broken report", line2, "", "{", "report"},
		{"a report of a commit that is none", line2, "", strings.Replace(goodReport, "HEAD-COMMIT", strings.Repeat("0", 40), 1), "HEAD does not come from its commit 0000"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			at := func(name, text string) string {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return path
			}
			if c.report != "" {
				at("reports/long.json", strings.Replace(c.report, "HEAD-COMMIT", head, 1))
			}
			args := []string{"-status", at("status.md", c.status), "-ids", at("ids.txt", ids), "-results", at("results.json", c.results), "-reports", filepath.Join(dir, "reports")}
			var out, errOut bytes.Buffer
			code := run(args, &out, &errOut)
			if (code == 0) != (c.want == "") || !strings.Contains(errOut.String(), c.want) {
				t.Errorf("exit code %d, want %q, got %q", code, c.want, &errOut)
			}
		})
	}
}

// history makes a repository of two commits in a directory that becomes the current one, and tells the older.
func history(t *testing.T) (older string) {
	t.Helper()
	t.Chdir(t.TempDir())
	git(t, "init", "-q")
	commit(t, "first")
	older = git(t, "rev-parse", "HEAD")
	commit(t, "second")
	return older
}

func commit(t *testing.T, what string) {
	t.Helper()
	git(t, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "--allow-empty", "-m", what)
}

func git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A report is of a state that HEAD comes from; a shallow clone that can't know says so and goes on.
func TestReportsCommit(t *testing.T) {
	older := history(t)
	whole, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if note, err := ancestor(older); note != "" || err != nil {
		t.Errorf("an older commit: %q, %v", note, err)
	}
	git(t, "checkout", "-q", "-b", "side", older)
	commit(t, "beside")
	beside := git(t, "rev-parse", "HEAD")
	git(t, "checkout", "-q", "-")
	if _, err := ancestor(beside); err == nil || !strings.Contains(err.Error(), "HEAD does not come from its commit "+beside) {
		t.Errorf("a commit of another branch: %v", err)
	}
	t.Chdir(t.TempDir())
	git(t, "clone", "-q", "--depth", "1", "file://"+whole, ".")
	if note, err := ancestor(older); err != nil || !strings.Contains(note, "this clone is shallow") {
		t.Errorf("in a shallow clone: %q, %v", note, err)
	}
	t.Chdir(t.TempDir())
	if _, err := ancestor(older); err == nil {
		t.Error("without git's history nothing is shown")
	}
}

// No results at all is no pass, whatever the page claims.
func TestNoResults(t *testing.T) {
	var out, errOut bytes.Buffer
	args := []string{"-status", "../../docs/status.md", "-ids", "ids.txt", "-results", filepath.Join(t.TempDir(), "none"), "-reports", t.TempDir()}
	if code := run(args, &out, &errOut); code != 1 {
		t.Errorf("exit code %d, %q", code, &errOut)
	}
}
