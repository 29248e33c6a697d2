//go:build !mutants

package faults

// tags are those that the binary under test is built with.
const tags = ""
