//go:build mutants

package faults

// tags are those that the binary under test is built with: THEMIS_GUARD_OFF then holds for it as well.
const tags = "mutants"
