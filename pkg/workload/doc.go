// Package workload says what a load writes and what a benchmark asks: data sets whose every row follows from a seed and its number,
// mixes of reads and writes whose every operation follows from a seed and its number, and where a load that broke off goes on.
//
//	Row(seed, n)        the n-th document of a data set, always the same bytes
//	Generator.Op(n)     the n-th operation of a mix, the same for any number of threads
//	Window, Frontier    rows are sent at most Window ahead of the first that is not stored; so a few reads find where to go on
//
// It is pure: who loads and measures stands in cmd/themis-cli and pkg/bench. Everything may be called by any number of goroutines,
// except Window.
package workload
