// Package loopback gives out TCP ports of this machine for processes that are told theirs before they start: members of an ensemble name
// each other's, a node keeps its own over a restart.
package loopback

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
)

// Host is where the ports are.
const Host = "127.0.0.1"

// The ports, below those that systems hand out by themselves: no outgoing connection takes one.
const (
	first = 20000
	last  = 32000
	tries = 10000
)

// Ports are n TCP ports of Host where nobody listens, and which no other caller on this machine is given until the closer is closed:
// the UDP port of the same number is held meanwhile, which nobody uses.
func Ports(n int) ([]int, io.Closer, error) {
	var h held
	var out []int
	for range tries {
		if len(out) == n {
			return out, h, nil
		}
		port := first + rand.IntN(last-first) //nolint:gosec // any free one
		addr := fmt.Sprintf("%s:%d", Host, port)
		mark, err := net.ListenPacket("udp", addr) //nolint:noctx // opening a port does not wait
		if err != nil {
			continue
		}
		h = append(h, mark)
		l, err := net.Listen("tcp", addr) //nolint:noctx // nor does this
		if err != nil {
			continue // somebody else's; the mark goes with the others
		}
		if err := l.Close(); err != nil {
			return nil, nil, errors.Join(err, h.Close())
		}
		out = append(out, port)
	}
	return nil, nil, errors.Join(fmt.Errorf("no %d free ports between %d and %d on %s", n, first, last, Host), h.Close())
}

type held []net.PacketConn

func (h held) Close() error {
	var errs []error
	for _, c := range h {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// test is what Addrs needs of a *testing.T.
type test interface {
	Helper()
	Fatal(args ...any)
	Cleanup(f func())
}

// Addrs are n addresses with such ports, HOST:PORT, the test's until it ends.
func Addrs(t test, n int) []string {
	t.Helper()
	ports, marks, err := Ports(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = marks.Close() })
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%s:%d", Host, p))
	}
	return out
}

// Addr is one of them.
func Addr(t test) string {
	t.Helper()
	return Addrs(t, 1)[0]
}
