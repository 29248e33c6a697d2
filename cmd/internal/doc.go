// Package internal holds what the tests of the programs share.
package internal
