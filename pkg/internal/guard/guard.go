//go:build !mutants

// Package guard names the rules that protect data, so that each can be taken out for a moment to see its test fail.
// In an ordinary build every rule is on and the calls vanish; with the build tag `mutants` the rule that
// THEMIS_GUARD_OFF names is off. docs/guards.md lists them; `go run ./.ci/mutants` runs them all.
package guard

// On says whether the rule holds: always, in an ordinary build.
func On(Rule) bool { return true }
