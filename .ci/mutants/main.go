// Command mutants takes each guard of docs/guards.md out once and demands that the test named beside it goes red: the proof
// that the tests can fail. It builds with the tag `mutants`, under which THEMIS_GUARD_OFF switches one rule off.
//
// Each test must pass with every guard in place first: one that fails for another reason, such as a program that is not installed,
// proves nothing. -green leaves that out where the tests have just been seen to pass.
//
//	go run ./.ci/mutants [-only NAME] [-without PACKAGE] [-seeds 60000] [-green] [-report FILE]
//	go run ./.ci/mutants -check FILE    runs nothing: compares such a report of a whole run with docs/guards.md, row by row
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A guard's test mostly waits for what doesn't come without the guard, so several run at once; not those over real processes, whose
// clusters need the machine for themselves.
const (
	atOnce    = 3
	processes = "pkg/internal/faults"
)

type guard struct {
	rule, pkg, test string
}

func (g guard) String() string { return g.rule + " " + g.pkg + "." + g.test }

const rows = "docs/guards.md"

func main() {
	only := flag.String("only", "", "this guard alone")
	without := flag.String("without", "", "leave the guards of this package's tests to another run")
	seeds := flag.String("seeds", "60000", "runs of TestSeeds")
	green := flag.Bool("green", false, "the tests have just been seen to pass with every guard in place")
	report := flag.String("report", "", "write a report of what was seen red")
	checked := flag.String("check", "", "compare the report in this file with the guards, and run nothing")
	flag.Parse()
	if *checked != "" {
		if err := check(rows, *checked); err != nil {
			fmt.Fprintln(os.Stderr, "mutants:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(*only, *without, *seeds, *report, *green); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(only, without, seeds, report string, known bool) error {
	guards, err := list(rows)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	guards = slices.DeleteFunc(guards, func(g guard) bool { return only != "" && g.rule != only || g.pkg == without })
	built := map[string]string{}
	for _, g := range guards {
		if err := build(built, dir, g.pkg); err != nil {
			return err
		}
	}
	control := map[string]func() error{} // by test; run once
	for _, g := range guards {
		if test := g.pkg + "." + g.test; control[test] == nil {
			control[test] = sync.OnceValue(func() error {
				if known {
					return nil
				}
				return g.control(built[g.pkg], seeds)
			})
		}
	}
	seen := make([]bool, len(guards)) // red
	for _, alone := range []bool{false, true} {
		var some errgroup.Group
		some.SetLimit(atOnce)
		if alone {
			some.SetLimit(1)
		}
		for i, g := range guards {
			if (g.pkg == processes) == alone {
				some.Go(func() (err error) {
					if err = control[g.pkg+"."+g.test](); err == nil {
						seen[i], err = g.red(built[g.pkg], seeds)
					}
					return err
				})
			}
		}
		if err := some.Wait(); err != nil {
			return err
		}
	}
	var red []string
	for i, g := range guards {
		if seen[i] {
			red = append(red, g.String())
		}
	}
	green := len(guards) - len(red)
	if report != "" {
		if err := write(report, red, seeds); err != nil {
			return err
		}
	}
	if green > 0 {
		return fmt.Errorf("%d guards can be taken out without a test that notices", green)
	}
	if len(red) == 0 {
		return fmt.Errorf("no guard named %q", only)
	}
	fmt.Printf("%d guards, each seen red\n", len(red))
	return nil
}

// run runs the guard's test without the guard of that name; none is left out where it is empty.
func (g guard) run(bin, seeds, off string) ([]byte, error) {
	cmd := exec.Command(bin, "-test.run", "^"+g.test+"$", "-test.timeout", "10m", "-test.v") //nolint:gosec,noctx // our own binary
	cmd.Dir = g.pkg
	cmd.Env = append(os.Environ(), "THEMIS_GUARD_OFF="+off, "THEMIS_SEEDS="+seeds, "THEMIS_LONG=1")
	return cmd.CombinedOutput()
}

// control demands that the test runs and passes with every guard in place.
func (g guard) control(bin, seeds string) error {
	out, err := g.run(bin, seeds, "")
	if err != nil || !strings.Contains(string(out), "--- PASS: "+g.test+" ") {
		return fmt.Errorf("%s.%s does not pass with every guard in place: %w\n%s", g.pkg, g.test, err, out[max(0, len(out)-4000):])
	}
	return nil
}

// red runs a guard's test without the guard.
func (g guard) red(bin, seeds string) (bool, error) {
	began := time.Now()
	out, err := g.run(bin, seeds, g.rule)
	switch {
	case err == nil:
		fmt.Printf("GREEN  %-16s %s.%s stays green without it\n", g.rule, g.pkg, g.test)
		return false, nil
	case !strings.Contains(string(out), "FAIL") && !strings.Contains(string(out), "panic"):
		return false, fmt.Errorf("%s: %w\n%s", g.rule, err, out)
	}
	fmt.Printf("red    %-16s %s.%s after %.1f s\n", g.rule, g.pkg, g.test, time.Since(began).Seconds())
	return true, nil
}

func build(built map[string]string, dir, pkg string) error {
	if built[pkg] != "" {
		return nil
	}
	bin := filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-"))
	out, err := exec.Command("go", "test", "-tags", "mutants", "-c", "-o", bin, "./"+pkg).CombinedOutput() //nolint:gosec,noctx // our own packages
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	built[pkg] = bin
	return nil
}

// list reads the rows | `rule` | `pkg/x.TestY` | … |.
func list(file string) ([]guard, error) {
	f, err := os.Open(file) //nolint:gosec // our own file
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var out []guard
	for s := bufio.NewScanner(f); s.Scan(); {
		cells := strings.Split(s.Text(), "|")
		if len(cells) < 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		rule, test := strings.Trim(cells[1], " `"), strings.Trim(cells[2], " `")
		i := strings.LastIndex(test, ".Test")
		if i < 0 {
			return nil, fmt.Errorf("%s: %s names no test: %q", file, rule, test)
		}
		out = append(out, guard{rule, test[:i], test[i+1:]})
	}
	return out, nil
}

// report is what a run saw: which guards' tests went red, each as "rule package.test".
type report struct {
	Command string    `json:"command"`
	Commit  string    `json:"commit"`
	Seeds   string    `json:"seeds"`
	Date    time.Time `json:"date"`
	Red     []string  `json:"red"`
}

func write(name string, red []string, seeds string) error {
	commit, err := exec.Command("git", "rev-parse", "HEAD").Output() //nolint:noctx // local
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(report{"go run ./.ci/mutants", strings.TrimSpace(string(commit)), seeds, time.Now().UTC().Truncate(time.Second), red}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644) //nolint:gosec // a report
}

// check demands that the report has every row of the guards, and none that is not there.
func check(guards, seen string) error {
	want, err := list(guards)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(seen) //nolint:gosec // our own file
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", seen, err)
	}
	var faults []error
	known := map[string]bool{}
	for _, g := range want {
		if known[g.String()] {
			faults = append(faults, fmt.Errorf("%s has two rows of %s", guards, g))
		}
		if known[g.String()] = true; !slices.Contains(r.Red, g.String()) {
			faults = append(faults, fmt.Errorf("%s has not been seen red: %s lacks it", g, seen))
		}
	}
	for _, red := range r.Red {
		if !known[red] {
			faults = append(faults, fmt.Errorf("%s tells of %q, of which %s has no row", seen, red, guards))
		}
	}
	if len(want) == 0 {
		faults = append(faults, fmt.Errorf("%s has no rows", guards))
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w\nafter a change of %s: go run ./.ci/mutants -report %s", errors.Join(faults...), guards, seen)
	}
	return nil
}
