// Command testfilter reads the output of go test -json and shows what a reader needs of it.
//
//	go test -json ./... 2>&1 | testfilter -o results.json     one line a package, failures in full, then the count
//	testfilter -count results.json                            only the count, of all runs that were written there
//	testfilter -passed 'TestA|TestB' <results.json            the tests that passed, one a line: each of those named must be there
//
// Every input line is appended to the file. The last line is always "N passed, N failed, N skipped", counting tests and subtests;
// a package that fails outside its tests, or never ends, counts as one failure. Exit code 1: something failed, or nothing ran. For go test
// a test passes though parts of it were skipped; -passed leaves it out.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, in io.Reader, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("testfilter", flag.ContinueOnError)
	flags.SetOutput(errOut)
	file := flags.String("o", "", "append every input line to this `file`")
	count := flags.String("count", "", "print only the count of this `file` of earlier runs")
	named := flags.String("passed", "", "print the tests that passed with all their parts, as package.Test; these `tests`, with | between them, must be among them")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *named != "" {
		tests, err := passed(in, strings.Split(*named, "|"))
		if err != nil {
			fmt.Fprintln(errOut, "testfilter:", err)
			return 1
		}
		fmt.Fprintln(out, strings.Join(tests, "\n"))
		return 0
	}
	f := &filter{out: out, raw: io.Discard, output: map[key][]string{}, open: map[string]*tally{}}
	if *count != "" {
		r, err := os.Open(*count)
		if err != nil {
			fmt.Fprintln(errOut, "testfilter:", err)
			return 1
		}
		defer r.Close() //nolint:errcheck // only read
		in, f.out = r, io.Discard
	}
	if *file != "" {
		w, err := os.OpenFile(*file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) //nolint:gosec // a log for everyone to read
		if err != nil {
			fmt.Fprintln(errOut, "testfilter:", err)
			return 1
		}
		defer w.Close() //nolint:errcheck // a short write is seen by Write
		f.raw = w
	}
	if err := f.read(in); err != nil {
		fmt.Fprintln(errOut, "testfilter:", err)
		return 1
	}
	f.finish()
	fmt.Fprintln(out, f.total)
	if f.total.failed > 0 || f.total.passed == 0 {
		return 1
	}
	return 0
}

// event is what test2json documents, and the build events beside it.
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string

	Elapsed float64
}

type key struct{ pkg, test string }

type tally struct{ passed, failed, skipped int }

func (t tally) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
}

type filter struct {
	out, raw io.Writer
	output   map[key][]string  // what each running test, package ("") or build has printed so far
	open     map[string]*tally // packages that have not ended
	skips    []string
	total    tally
}

func (f *filter) read(in io.Reader) error {
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			if _, err := f.raw.Write(line); err != nil {
				return err
			}
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(f.out, "%s\n", bytes.TrimRight(line, "\n")) // the go command itself speaks
			} else {
				f.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (f *filter) take(e event) {
	switch e.Action {
	case "build-output":
		k := key{e.ImportPath, "build"}
		f.output[k] = append(f.output[k], e.Output)
		return
	case "output":
		k := key{e.Package, e.Test}
		f.output[k] = append(f.output[k], e.Output)
	}
	if e.Package == "" {
		return
	}
	t := f.open[e.Package]
	if t == nil {
		t = &tally{}
		f.open[e.Package] = t
	}
	switch e.Action {
	case "pass", "fail", "skip":
		if e.Test == "" {
			f.endPackage(e, *t)
		} else {
			f.endTest(e, t)
		}
	}
}

func (f *filter) endTest(e event, t *tally) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "pass":
		t.passed++
	case "fail":
		t.failed++
		fmt.Fprintf(f.out, "FAIL  %s.%s\n%s", e.Package, e.Test, strings.Join(f.output[k], ""))
	case "skip":
		t.skipped++
		f.skips = append(f.skips, e.Package+"."+e.Test+reason(f.output[k]))
	}
	delete(f.output, k)
}

// reason is what a skipped test said, without the frame that testing puts around it.
func reason(output []string) string {
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			return ": " + line
		}
	}
	return ""
}

func (f *filter) endPackage(e event, t tally) {
	delete(f.open, e.Package)
	if e.Action == "fail" {
		if e.FailedBuild != "" {
			k := key{e.FailedBuild, "build"}
			fmt.Fprint(f.out, strings.Join(f.output[k], ""))
			delete(f.output, k)
		}
		f.flush(e.Package)
		if t.failed == 0 {
			t.failed = 1 // it did not build, leaked, panicked or ran out of time outside a test's own verdict
		}
	}
	delete(f.output, key{e.Package, ""})
	f.add(t)
	switch {
	case e.Action == "fail":
		fmt.Fprintf(f.out, "FAIL  %-60s %7.2fs  %s\n", e.Package, e.Elapsed, t)
	case t == tally{}:
		fmt.Fprintf(f.out, "none  %s\n", e.Package)
	default:
		fmt.Fprintf(f.out, "ok    %-60s %7.2fs  %s\n", e.Package, e.Elapsed, t)
	}
}

// flush prints what a failing package and its unfinished tests have said.
func (f *filter) flush(pkg string) {
	var keys []key
	for k := range f.output {
		if k.pkg == pkg && k.test != "build" {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return strings.Compare(a.test, b.test) })
	for _, k := range keys {
		fmt.Fprint(f.out, strings.Join(f.output[k], ""))
		delete(f.output, k)
	}
}

func (f *filter) add(t tally) {
	f.total.passed += t.passed
	f.total.failed += t.failed
	f.total.skipped += t.skipped
}

func (f *filter) finish() {
	for _, pkg := range slices.Sorted(maps.Keys(f.open)) {
		t := *f.open[pkg]
		t.failed++
		f.flush(pkg)
		f.add(t)
		fmt.Fprintf(f.out, "FAIL  %s never ended\n", pkg)
	}
	for _, s := range f.skips {
		fmt.Fprintln(f.out, "skip ", s)
	}
}

// passed are the tests that passed and no part of which was skipped or failed, as package.Test; an error where a named one is not there.
func passed(in io.Reader, named []string) ([]string, error) {
	well := map[key]bool{} // false: spoilt by a part, or by itself
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil && e.Test != "" {
			switch k := (key{e.Package, e.Test}); e.Action {
			case "pass":
				if _, spoilt := well[k]; !spoilt {
					well[k] = true
				}
			case "skip", "fail":
				for parts := strings.Split(e.Test, "/"); len(parts) > 0; parts = parts[:len(parts)-1] {
					well[key{e.Package, strings.Join(parts, "/")}] = false
				}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(well, func(_ key, well bool) bool { return !well })
	have := map[string]bool{}
	var tests []string
	for k := range well {
		have[k.test] = true
		tests = append(tests, k.pkg+"."+k.test)
	}
	slices.Sort(tests)
	if lacks := slices.DeleteFunc(named, func(test string) bool { return have[test] }); len(lacks) > 0 {
		return nil, fmt.Errorf("these did not pass with all their parts, or are no tests: %s", strings.Join(lacks, ", "))
	}
	return tests, nil
}
