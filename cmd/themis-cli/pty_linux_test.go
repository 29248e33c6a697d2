package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminalCases are what decides how the answer is drawn where stdout is a terminal.
var terminalCases = []struct{ env, flag string }{
	{"LANG=C.UTF-8 TERM=xterm-256color", ""},
	{"LANG=C.UTF-8 TERM=xterm-256color NO_COLOR=1", ""},
	{"LANG=C.UTF-8 TERM=xterm-256color", "--no-color"},
	{"LANG=C.UTF-8 TERM=dumb", ""},
	{"LANG=C TERM=xterm-256color NO_COLOR=1", ""},
}

// onTerminals draws the health box on terminals of several kinds, 80 columns wide. Escape is shown as ^[.
func (c *contract) onTerminals() string {
	var all strings.Builder
	for _, k := range terminalCases {
		args := append([]string{"cluster", "health"}, strings.Fields(k.flag)...)
		all.WriteString("$ " + k.env + " themis-cli " + strings.Join(args, " ") + "\n")
		all.WriteString(onTerminal(c.t, c.command(strings.Fields(k.env), "", args...)))
	}
	return all.String()
}

// onTerminal runs a command whose stdout is a terminal, and answers what that was told.
func onTerminal(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close() //nolint:errcheck // only read from
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = slave
	read := make(chan string)
	go func() {
		var b bytes.Buffer
		_, _ = io.Copy(&b, master) //nolint:errcheck // it ends with EIO when nobody has the terminal open
		read <- b.String()
	}()
	err = cmd.Run()
	_ = slave.Close()
	text := <-read
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\x1b", "^[")
}
