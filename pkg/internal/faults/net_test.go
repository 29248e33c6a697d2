package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// ack is an empty TCP packet between two ports.
func ack(from, to uint16, size int) []byte {
	p := make([]byte, size)
	p[0], p[9] = 0x45, 6
	p[20], p[21], p[22], p[23] = byte(from>>8), byte(from), byte(to>>8), byte(to)
	return p
}

func TestLine(t *testing.T) {
	now := time.Unix(100, 0)
	l := &line{chance: rand.New(rand.NewPCG(1, 1))}
	at := func(link Link, p []byte) string {
		l.link = link
		when, ok := l.arrival(p, now)
		if !ok {
			return "lost"
		}
		return when.Sub(now).String()
	}
	small := ack(40000, 2380, 40)
	for _, c := range []struct {
		what string
		link Link
		p    []byte
		want string
	}{
		{"good", Link{}, small, "0s"},
		{"cut", Link{Cut: true}, small, "lost"},
		{"cut for this port", Link{Cut: true, Ports: []uint16{2380}}, small, "lost"},
		{"cut for the answers of this port", Link{Cut: true, Ports: []uint16{40000}}, small, "lost"},
		{"cut for another port", Link{Cut: true, Ports: []uint16{50051}}, small, "0s"},
		{"all lost", Link{Loss: 1}, small, "lost"},
		{"delayed", Link{Delay: 50 * time.Millisecond}, small, "50ms"},
		{"behind the one that was delayed", Link{}, small, "50ms"},
		{"1000 bytes at 2000 bytes a second", Link{Rate: 2000}, ack(1, 2, 1000), "500ms"},
		{"200 more wait for them", Link{Rate: 2000}, ack(1, 2, 200), "600ms"},
		{"there is no room for further ones", Link{Rate: 2000}, ack(1, 2, 100), "lost"},
	} {
		if got := at(c.link, c.p); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
	lost := 0
	for range 10_000 {
		if at(Link{Loss: 0.1}, small) == "lost" {
			lost++
		}
	}
	if lost < 900 || lost > 1100 {
		t.Errorf("%d of 10000 packets were lost, want about 1000", lost)
	}
}

// The network itself: hosts reach each other, a cut is silent, one direction can be cut alone, a delay is felt.
func TestNet(t *testing.T) {
	n := NewNet(t, "a", "b", "c")
	var l net.Listener
	err := n.In("b", func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("%s:7000", n.Addr("b")))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	dial := func(from string, limit time.Duration) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return n.Dial(ctx, from, l.Addr().String())
	}
	conn, err := dial("a", 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	echo := func(limit time.Duration) (time.Duration, error) {
		began := time.Now()
		_ = conn.SetReadDeadline(began.Add(limit))
		if _, err := fmt.Fprintln(conn, "hello"); err != nil {
			return 0, err
		}
		_, err := in.ReadString('\n')
		return time.Since(began), err
	}
	if _, err := echo(2 * time.Second); err != nil {
		t.Fatal(err)
	}
	for name, cut := range map[string]func(){
		"both ways": func() { n.Cut([]string{"a"}, []string{"b"}) },
		"there":     func() { n.Set("a", "b", Link{Cut: true}) },
		"back":      func() { n.Set("b", "a", Link{Cut: true}) },
	} {
		cut()
		if c, err := dial("a", 200*time.Millisecond); err == nil {
			_ = c.Close()
			t.Errorf("cut %s: connected all the same", name)
		}
		if c, err := dial("c", 2*time.Second); err != nil {
			t.Errorf("cut %s: another host can't connect: %v", name, err)
		} else {
			_ = c.Close()
		}
		n.Heal()
	}
	if c, err := dial("a", 2*time.Second); err != nil {
		t.Errorf("healed: %v", err)
	} else {
		_ = c.Close()
	}
	if _, err := echo(5 * time.Second); err != nil {
		t.Errorf("the old connection lives on after a cut: %v", err)
	}
	n.Between([]string{"a"}, []string{"b"}, Link{Delay: 30 * time.Millisecond})
	if took, err := echo(2 * time.Second); err != nil || took < 60*time.Millisecond {
		t.Errorf("there and back with 30 ms each took %s, %v", took, err)
	}
}
