//go:build !linux

package control

// socketOption is a number that the kernel keeps for a connection.
type socketOption struct{ level, name, value int }

var peerLimits []socketOption // without /proc no connection is found to set them on
