// Package internal holds what the programs share: how they say that they were called in a wrong way, and what their tests check.
package internal
