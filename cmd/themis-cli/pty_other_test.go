//go:build !linux

package main

func (c *contract) onTerminals() string {
	c.t.Fatal("these tests make terminals on Linux only")
	return ""
}
