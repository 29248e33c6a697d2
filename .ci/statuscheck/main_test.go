package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodReport = `{"command": "go test -run Crash", "commit": "3c155f4c155f43c155f4c155f43c155f4c155f43", "seed": 7, "date": "2026-11-20T10:00:00Z", "tests": ["pkg/wal.TestLong"]}`

func event(action, test string) string {
	return `{"Action":"` + action + `","Package":"github.com/themisdb/themis/pkg/wal","Test":"` + test + `"}` + "\n"
}

func TestStatusCheck(t *testing.T) {
	const ids = "REP-01\nREP-02\n"
	line2 := "| REP-02 | missing | |\n"
	for _, c := range []struct{ what, status, results, report, want string }{
		{"nothing claimed", "# Status\n\n| ID | state | test(s) or note |\n|---|---|---|\n| REP-01 | missing | |\n" + line2, "", "", ""},
		{"shown in this run", "| REP-01 | done | `pkg/wal.TestA` |\n" + line2, event("pass", "TestA"), "", ""},
		{"two tests and a note", "| REP-01 | done | `pkg/wal.TestA`, `pkg/wal.TestB/x` of 9 `frames` |\n" + line2, event("pass", "TestA") + event("pass", "TestB/x"), "", ""},
		{"shown in a report", "| REP-01 | done | `pkg/wal.TestLong` |\n" + line2, event("pass", "TestA"), goodReport, ""},
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
		{"a torn line", "| REP-01 | missing |\n" + line2, "", "", "line 1 is not"},
		{"a line that is no requirement", "| REP-1a | missing | |\n" + line2, "", "", "line 1 is not"},
		{"a report without a seed", line2, "", strings.Replace(goodReport, `"seed": 7, `, "", 1), "no seed"},
		{"a report without a date", line2, "", strings.Replace(goodReport, `"date": "2026-11-20T10:00:00Z", `, "", 1), "no date"},
		{"a report without a commit", line2, "", strings.Replace(goodReport, "3c155f4", "HEAD", 1), "commit is not"},
		{"a report without a command", line2, "", strings.Replace(goodReport, "go test -run Crash", "", 1), "no command"},
		{"a report without tests", line2, "", strings.Replace(goodReport, `"pkg/wal.TestLong"`, "", 1), "no tests"},
		{"a broken report", line2, "", "{", "report"},
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
				at("reports/long.json", c.report)
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

// No results at all is no pass, whatever the page claims.
func TestNoResults(t *testing.T) {
	var out, errOut bytes.Buffer
	args := []string{"-status", "../../docs/status.md", "-ids", "ids.txt", "-results", filepath.Join(t.TempDir(), "none"), "-reports", t.TempDir()}
	if code := run(args, &out, &errOut); code != 1 {
		t.Errorf("exit code %d, %q", code, &errOut)
	}
}
