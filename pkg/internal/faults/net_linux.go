package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Net is a network of one test: each host is a network namespace of its own, and every packet between two of them passes
// through this process, where links are cut, delayed, thinned and slowed, each direction by itself.
//
//	host a ── tun ──┐                    ┌── tun ── host b
//	                └──► link a→b ───────┘
//
// Namespaces have no names in the file system: they end with the processes in them and with this one.
type Net struct {
	hosts []string
	space map[string]int // by host: a descriptor of its namespace
	tun   map[string]*os.File
	lines map[[2]string]*line // by sender and receiver
	wg    sync.WaitGroup
	done  chan struct{}
}

// Link is what is wrong with one direction between two hosts. The zero Link is a good one.
type Link struct {
	Cut           bool
	Delay, Jitter time.Duration // a packet takes Delay and up to Jitter more; packets keep their order
	Loss          float64       // this share of packets vanishes
	Rate          int           // bytes a second; 0: no limit
	Ports         []uint16      // only TCP packets from or to one of these ports are meant; none: all packets
}

const (
	netMTU   = 9000
	lineHold = 1024                   // packets that a line holds; more are lost, as in a router
	backlog  = 500 * time.Millisecond // what waits for a line of limited rate; more is lost
)

// NewNet makes a network for the test's duration. The hosts' addresses are those of Addr.
func NewNet(t *testing.T, hosts ...string) *Net {
	t.Helper()
	NeedRoot(t, "ip")
	n := &Net{hosts: hosts, space: map[string]int{}, tun: map[string]*os.File{}, lines: map[[2]string]*line{}, done: make(chan struct{})}
	t.Cleanup(n.close)
	for _, h := range hosts {
		if err := n.host(h); err != nil {
			Lacking(t, fmt.Sprintf("networks of its own, which this machine does not let it make: %s: %v", h, err))
		}
	}
	for _, a := range hosts {
		for _, b := range hosts {
			if a == b {
				continue
			}
			l := &line{to: n.tun[b], held: make(chan packet, lineHold), chance: rand.New(rand.NewPCG(uint64(len(n.lines)), 11))}
			n.lines[[2]string{a, b}] = l
			n.wg.Go(func() { l.deliver(n.done) })
		}
	}
	for _, h := range hosts {
		n.wg.Go(func() { n.read(h) })
	}
	return n
}

// Addr is the host's address.
func (n *Net) Addr(host string) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 87, 0, byte(1 + slices.Index(n.hosts, host))})
}

// host makes a namespace with one device, whose other end is in this process.
func (n *Net) host(name string) error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		n.space[name] = fd
		if n.tun[name], err = newTun("link0"); err != nil {
			return err
		}
		ip := exec.Command("ip", "-batch", "-") //nolint:noctx // a short command of the test's own
		ip.Stdin = strings.NewReader(fmt.Sprintf("link set lo up\naddr add %s/24 dev link0\nlink set link0 mtu %d up\n", n.Addr(name), netMTU))
		if out, err := ip.CombinedOutput(); err != nil {
			return fmt.Errorf("ip: %w: %s", err, out)
		}
		return nil
	})
}

func newTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make device %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil //nolint:gosec // a descriptor
}

// onThread runs do on a thread of its own, which ends afterwards: what do changes of the thread touches nobody else.
func onThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// In runs do with the host's network: sockets that it opens and processes that it starts belong there.
func (n *Net) In(host string, do func() error) error {
	fd, ok := n.space[host]
	if !ok {
		return fmt.Errorf("no host %q", host)
	}
	return onThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network of %s: %w", host, err)
		}
		return do()
	})
}

// Dial makes a TCP connection from the host.
func (n *Net) Dial(ctx context.Context, from, addr string) (conn net.Conn, err error) {
	err = n.In(from, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		return err
	})
	return conn, err
}

// Set changes one direction.
func (n *Net) Set(from, to string, l Link) {
	x := n.lines[[2]string{from, to}]
	x.mu.Lock()
	x.link = l
	x.mu.Unlock()
}

// Between changes both directions between each of some hosts and each of others.
func (n *Net) Between(some, others []string, l Link) {
	for _, a := range some {
		for _, b := range others {
			if a != b {
				n.Set(a, b, l)
				n.Set(b, a, l)
			}
		}
	}
}

// Cut cuts some hosts off from others.
func (n *Net) Cut(some, others []string) { n.Between(some, others, Link{Cut: true}) }

// Heal makes every link good.
func (n *Net) Heal() { n.Between(n.hosts, n.hosts, Link{}) }

// read takes what a host sends and puts it on the line to its receiver.
func (n *Net) read(from string) {
	buf := make([]byte, 1<<16)
	for {
		size, err := n.tun[from].Read(buf)
		if err != nil {
			return // closed
		}
		p := buf[:size]
		if size < 20 || p[0]>>4 != 4 || p[16] != 10 || p[17] != 87 {
			continue
		}
		if i := int(p[19]) - 1; i >= 0 && i < len(n.hosts) {
			if l := n.lines[[2]string{from, n.hosts[i]}]; l != nil {
				l.send(p)
			}
		}
	}
}

func (n *Net) close() {
	close(n.done)
	for _, f := range n.tun {
		_ = f.Close()
	}
	n.wg.Wait()
	for _, fd := range n.space {
		_ = unix.Close(fd)
	}
}

// line is one direction of a link at work.
type line struct {
	to     io.Writer
	held   chan packet
	mu     sync.Mutex
	link   Link
	chance *rand.Rand
	free   time.Time // when the last packet has left a line of limited rate
	newest time.Time // when the last packet arrives
}

type packet struct {
	at    time.Time
	bytes []byte
}

func (l *line) send(p []byte) {
	now := time.Now()
	at, arrives := l.arrival(p, now)
	switch {
	case !arrives:
	case at.After(now):
		select {
		case l.held <- packet{at, slices.Clone(p)}:
		default:
		}
	default:
		_, _ = l.to.Write(p) // a full device loses packets, as any does
	}
}

// arrival says when a packet that is sent now arrives, if it does.
func (l *line) arrival(p []byte, now time.Time) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.link
	if !k.meant(p) {
		k = Link{}
	}
	if k.Cut || k.Loss > 0 && l.chance.Float64() < k.Loss {
		return now, false
	}
	at := now
	if k.Rate > 0 {
		if l.free.Before(now) {
			l.free = now
		}
		if l.free.Sub(now) > backlog {
			return now, false
		}
		l.free = l.free.Add(time.Duration(len(p)) * time.Second / time.Duration(k.Rate))
		at = l.free
	}
	at = at.Add(k.Delay)
	if k.Jitter > 0 {
		at = at.Add(time.Duration(l.chance.Int64N(int64(k.Jitter))))
	}
	if at.Before(l.newest) {
		at = l.newest
	}
	l.newest = at
	return at, true
}

// meant says whether the link's faults concern an IPv4 packet.
func (k Link) meant(p []byte) bool {
	if len(k.Ports) == 0 {
		return true
	}
	head := int(p[0]&15) * 4
	if p[9] != unix.IPPROTO_TCP || len(p) < head+4 {
		return false
	}
	return slices.Contains(k.Ports, binary.BigEndian.Uint16(p[head:])) || slices.Contains(k.Ports, binary.BigEndian.Uint16(p[head+2:]))
}

func (l *line) deliver(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case p := <-l.held:
			select {
			case <-done:
				return
			case <-time.After(time.Until(p.at)):
			}
			_, _ = l.to.Write(p.bytes)
		}
	}
}
