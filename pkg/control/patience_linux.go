package control

import "golang.org/x/sys/unix"

// socketOption is a number that the kernel keeps for a connection.
type socketOption struct{ level, name, value int }

var peerLimits = []socketOption{
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerPatience.Milliseconds())},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(peerIdle.Seconds())},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
}
