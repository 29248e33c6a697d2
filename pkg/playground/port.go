package playground

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// The ports of playgrounds, below those that the system gives to outgoing connections.
const (
	firstPort = 20000
	lastPort  = 32000
	loopback  = "127.0.0.1"
	blockSize = 10 // ports between one node's first and the next one's
	maxTries  = 500
)

// reserve gives the members addresses with ports that nobody has and no other playground of this user will want: all of them are
// held open at once while they are chosen.
func reserve(ctx context.Context, members []member, taken map[string]bool) error {
	var last error
	for range maxTries {
		span := len(members) * blockSize
		base := firstPort + rand.IntN((lastPort-firstPort-span)/blockSize)*blockSize //nolint:gosec // no secret
		for i := range members {
			for k, p := range members[i].ports() {
				*p.addr = net.JoinHostPort(loopback, strconv.Itoa(base+i*blockSize+k))
			}
		}
		if last = free(ctx, members, taken); last == nil {
			return nil
		}
	}
	return themis.Errorf(themis.InvalidArgument, "no %d free ports between %d and %d: %w", len(members)*blockSize, firstPort, lastPort, last).
		Do("stop playgrounds that are not needed: themis-cli playground list")
}

// free opens every address of the members, then closes them all.
func free(ctx context.Context, members []member, taken map[string]bool) error {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for i := range members {
		for _, p := range members[i].ports() {
			if taken[*p.addr] {
				return fmt.Errorf("%s: another playground has it", *p.addr)
			}
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *p.addr)
			if err != nil {
				return err
			}
			held = append(held, l)
		}
	}
	return nil
}

// checkPorts says which addresses of nodes that are about to start are taken, and by whom.
func checkPorts(ctx context.Context, members []*member) error {
	var faults []error
	for _, m := range members {
		for _, p := range m.ports() {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *p.addr)
			if err == nil {
				_ = l.Close()
				continue
			}
			e := themis.Errorf(themis.InvalidArgument, "%s cannot have its %s %s: %s", m.ID, p.key, *p.addr, holder(*p.addr, err))
			faults = append(faults, e.Do("end that process, then run the same command again"))
		}
	}
	return errors.Join(faults...)
}

// holder says who has the address, or why it can't be had.
func holder(addr string, err error) string {
	_, port, splitErr := net.SplitHostPort(addr)
	n, numErr := strconv.Atoi(port)
	if splitErr == nil && numErr == nil {
		if pid, command := listener(n); pid > 0 {
			return fmt.Sprintf("process %d has it: %s", pid, command)
		}
	}
	return err.Error()
}

// listener finds the process that listens on a TCP port of this machine: the socket by its port, the process by the socket. 0: not
// found, or it belongs to somebody else.
func listener(port int) (pid int, commandLine string) {
	inodes := map[string]bool{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range linesOf(b) {
			if inode, ok := listening(line, port); ok {
				inodes["socket:["+inode+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return 0, ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || !inodes[to] {
			continue
		}
		n, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil {
			continue
		}
		line := strings.Join(command(n), " ")
		if len(line) > 200 {
			line = line[:200] + "…"
		}
		return n, line
	}
	return 0, ""
}

// listening reads a line of /proc/net/tcp: `sl local_address rem_address st … inode`, numbers in hexadecimal.
func listening(line string, port int) (inode string, ok bool) {
	f := strings.Fields(line)
	const listen = "0A"
	if len(f) < 10 || f[3] != listen {
		return "", false
	}
	_, local, found := strings.Cut(f[1], ":")
	b, err := hex.DecodeString(local)
	if !found || err != nil || len(b) != 2 {
		return "", false
	}
	return f[9], int(b[0])<<8|int(b[1]) == port
}
