// Command statuscheck holds docs/status.md to what tests have shown.
//
//	go run ./.ci/statuscheck -status docs/status.md -results results.json -reports docs/reports
//
// Each requirement has one line, | ID | state | test(s) or note |, with a state of done, thin or missing. Tests are named in backquotes
// as `pkg/wal.TestTornTail` or `pkg/wal.TestTornTail/at_every_byte`. A done line names at least one test; every test named, on whatever
// line, must have run and passed, no part of it skipped: in this run (the output of go test -json), or in a report of a long command.
// A failure in this run outweighs a report; a test that is too long for this run, and skips here, is shown by its report: it must still
// be there to skip.
// A report is a JSON file in the reports directory:
//
//	{"command": "…", "commit": "40 hex digits", "seed": 7, "date": "RFC 3339", "tests": ["pkg/wal.TestCrash", …]}
//
// Its commit must be one that HEAD comes from, as git says of the current directory; only a shallow clone may lack it.
//
// Every ID of ids.txt must have its line, and no line may have another ID. Exit code 1: some line claims what isn't shown.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const module = "github.com/themisdb/themis/"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("statuscheck", flag.ContinueOnError)
	flags.SetOutput(errOut)
	status := flags.String("status", "docs/status.md", "the status `file`")
	ids := flags.String("ids", ".ci/statuscheck/ids.txt", "the `file` of all requirement IDs, one a line")
	results := flags.String("results", "results.json", "the `file` of this run's go test -json output")
	reports := flags.String("reports", "docs/reports", "the `directory` of the long commands' reports")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	shown, notes, err := evidence(*results, *reports)
	for _, note := range notes {
		fmt.Fprintln(errOut, "statuscheck:", note)
	}
	if err != nil {
		fmt.Fprintln(errOut, "statuscheck:", err)
		return 1
	}
	known, err1 := os.ReadFile(*ids)
	page, err2 := os.ReadFile(*status)
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(errOut, "statuscheck:", err)
		return 1
	}
	rows, faults := parse(page)
	faults = append(faults, check(rows, strings.Fields(string(known)), shown)...)
	for _, f := range faults {
		fmt.Fprintf(errOut, "%s: %s\n", *status, f)
	}
	count := map[string]int{}
	for _, r := range rows {
		count[r.state]++
	}
	fmt.Fprintf(out, "%d requirements: %d done, %d thin, %d missing\n", len(rows), count["done"], count["thin"], count["missing"])
	if len(faults) > 0 {
		return 1
	}
	return 0
}

// row is one line of the table.
type row struct {
	line      int
	id, state string
	tests     []string
}

var (
	idForm   = regexp.MustCompile(`^[A-Z]+-R?[0-9]+$`)
	testForm = regexp.MustCompile("`((?:[\\w.-]+/)*[\\w.-]+\\.(?:Test|Fuzz|Example)[^`\\s]*)`")
)

// parse reads the table lines of the page; other lines are free text. A table line that is not a heading must be a requirement.
func parse(page []byte) (rows []row, faults []string) {
	n := 0
	for line := range strings.Lines(string(page)) {
		n++
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[0] == "ID" || strings.Trim(cells[0], "-: ") == "" {
			continue
		}
		if len(cells) != 3 || !idForm.MatchString(cells[0]) {
			faults = append(faults, fmt.Sprintf("line %d is not | ID | state | test(s) or note |: %s", n, line))
			continue
		}
		r := row{line: n, id: cells[0], state: cells[1]}
		for _, m := range testForm.FindAllStringSubmatch(cells[2], -1) {
			r.tests = append(r.tests, m[1])
		}
		rows = append(rows, r)
	}
	return rows, faults
}

// verdict is what is known of a test. The zero verdict: it did not run.
type verdict struct {
	passed   bool
	reported bool   // by a report
	reason   string // why it doesn't count although it ran
}

// check compares the rows with the IDs that must be there and with what was shown.
func check(rows []row, ids []string, shown map[string]verdict) []string {
	var faults []string
	seen := map[string]int{}
	for _, r := range rows {
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Sprintf("line %d: %s: ", r.line, r.id)+fmt.Sprintf(format, args...))
		}
		if first := seen[r.id]; first != 0 {
			fault("stands on line %d already", first)
		}
		seen[r.id] = r.line
		if !slices.Contains(ids, r.id) {
			fault("there is no such requirement")
		}
		switch r.state {
		case "done":
			if len(r.tests) == 0 {
				fault("done, but no test is named")
			}
		case "thin", "missing":
		default:
			fault("state %q: done, thin or missing", r.state)
		}
		for _, name := range r.tests {
			switch v := shown[name]; {
			case v.reason != "":
				fault("%s %s", name, v.reason)
			case !v.passed:
				fault("%s did not run, here or in a report", name)
			}
		}
	}
	for _, id := range ids {
		if seen[id] == 0 {
			faults = append(faults, id+" has no line")
		}
	}
	return faults
}

// evidence gathers the verdicts of this run and of the reports, and notes of what could not be looked at. A failure in this run
// outweighs a report.
func evidence(results, reports string) (shown map[string]verdict, notes []string, err error) {
	shown = map[string]verdict{}
	files, err := filepath.Glob(filepath.Join(reports, "*.json"))
	if err != nil {
		return nil, nil, err
	}
	for _, name := range files {
		r, err := readReport(name)
		if err != nil {
			return nil, notes, fmt.Errorf("report %s: %w", name, err)
		}
		note, err := ancestor(r.Commit)
		if err != nil {
			return nil, notes, fmt.Errorf("report %s: %w", name, err)
		}
		if note != "" {
			notes = append(notes, fmt.Sprintf("report %s: %s", name, note))
		}
		for _, test := range r.Tests {
			shown[test] = verdict{passed: true, reported: true}
		}
	}
	f, err := os.Open(results)
	if err != nil {
		return nil, notes, err
	}
	defer f.Close() //nolint:errcheck // only read
	last, err := readResults(f, shown)
	if err != nil {
		return nil, notes, err
	}
	for name, v := range shown {
		if v.reported && v.reason == "" && !isThere(name, last) {
			shown[name] = verdict{reason: "is in a report, but there is no such test any more: it did not even skip here"}
		}
	}
	return shown, notes, nil
}

// isThere says whether this run had the test, or skipped what it is a part of, by the last event of each.
func isThere(name string, last map[string]string) bool {
	if last[name] != "" {
		return true
	}
	for i := strings.LastIndexByte(name, '/'); i >= 0; i = strings.LastIndexByte(name, '/') {
		if name = name[:i]; last[name] == "skip" {
			return true
		}
	}
	return false
}

// ancestor demands that HEAD comes from the commit. A shallow clone may not know: that is told.
func ancestor(commit string) (note string, err error) {
	out, err := exec.Command("git", "merge-base", "--is-ancestor", commit, "HEAD").CombinedOutput() //nolint:gosec,noctx // hex digits; local
	if err == nil {
		return "", nil
	}
	if shallow, _ := exec.Command("git", "rev-parse", "--is-shallow-repository").Output(); strings.TrimSpace(string(shallow)) == "true" { //nolint:noctx // local
		return fmt.Sprintf("this clone is shallow, so whether HEAD comes from %s was not looked at", commit), nil
	}
	return "", fmt.Errorf("HEAD does not come from its commit %s, as far as git knows here: %w\n%s", commit, err, out)
}

// readResults adds the verdicts of a go test -json stream, and tells the last event of each test. Lines that are no events are the go
// command's own words.
func readResults(in io.Reader, shown map[string]verdict) (last map[string]string, err error) {
	last = map[string]string{}
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		var e struct{ Action, Package, Test string }
		if json.Unmarshal(line, &e) == nil && e.Test != "" {
			pkg := strings.TrimPrefix(e.Package, module)
			name := pkg + "." + e.Test
			last[name] = e.Action
			switch e.Action {
			case "pass":
				v := shown[name]
				v.passed = true
				shown[name] = v
			case "fail":
				spoil(shown, pkg, e.Test, "failed")
			case "skip":
				if !shown[name].reported {
					spoil(shown, pkg, e.Test, "was skipped")
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// spoil marks a test and all that it is a part of.
func spoil(shown map[string]verdict, pkg, test, why string) {
	name := pkg + "." + test
	shown[name] = verdict{reason: why}
	for i := strings.LastIndexByte(test, '/'); i >= 0; i = strings.LastIndexByte(test, '/') {
		test = test[:i]
		if whole := pkg + "." + test; shown[whole].reason == "" {
			shown[whole] = verdict{reason: fmt.Sprintf("has a part that %s: %s", why, name)}
		}
	}
}

type report struct {
	Command string    `json:"command"`
	Commit  string    `json:"commit"`
	Seed    *int64    `json:"seed"`
	Date    time.Time `json:"date"`
	Tests   []string  `json:"tests"`
}

var commitForm = regexp.MustCompile(`^[0-9a-f]{40}$`)

// readReport reads one report, or says what it lacks.
func readReport(name string) (report, error) {
	var r report
	data, err := os.ReadFile(name)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, err
	}
	var lacks []error
	lack := func(bad bool, what string) {
		if bad {
			lacks = append(lacks, errors.New(what))
		}
	}
	lack(r.Command == "", "no command")
	lack(!commitForm.MatchString(r.Commit), "commit is not 40 hex digits")
	lack(r.Seed == nil, "no seed")
	lack(r.Date.IsZero(), "no date")
	lack(len(r.Tests) == 0, "no tests")
	return r, errors.Join(lacks...)
}
