package tui

import (
	"fmt"

	"charm.land/bubbles/v2/key"
)

// action is what a key asks for.
type action int

const (
	quit action = iota
	help
	showOverview
	showReplication
	nextScreen
	previousScreen
	down
	up
	pageDown
	pageUp
	first
	last
	filter
	drop
)

// binding is one action and its keys.
type binding struct {
	key.Binding
	action action
}

func bind(a action, shown, means string, keys ...string) binding {
	return binding{key.NewBinding(key.WithKeys(keys...), key.WithHelp(shown, means)), a}
}

var bindings = []binding{
	bind(showOverview, "1", "overview", "1"),
	bind(showReplication, "2", "replication", "2"),
	bind(nextScreen, "tab", "next screen", "tab", "right", "l"),
	bind(previousScreen, "shift+tab", "screen before", "shift+tab", "left", "h"),
	bind(down, "j", "down; on the replication screen, the next copy", "j", "down"),
	bind(up, "k", "up; on the replication screen, the copy before", "k", "up"),
	bind(pageDown, "space", "a page down", "space", "pgdown", "ctrl+f", "ctrl+d"),
	bind(pageUp, "b", "a page up", "b", "pgup", "ctrl+b", "ctrl+u"),
	bind(first, "g", "to the top", "g", "home"),
	bind(last, "G", "to the end", "G", "shift+g", "end"),
	bind(filter, "/", "show only what has these letters", "/"),
	bind(drop, "esc", "drop the filter, leave the help", "esc"),
	bind(help, "?", "this page, and back", "?", "f1"),
	bind(quit, "q", "leave", "q", "ctrl+c"),
}

// footKeys are those that the foot of the window names, the one that matters most first.
var footKeys = []struct{ key, does string }{{"q", "quit"}, {"?", "help"}, {"tab", "next"}, {"/", "filter"}, {"j/k", "move"}}

// actionOf is what the pressed key asks for.
func actionOf(k fmt.Stringer) (action, bool) {
	for _, b := range bindings {
		if key.Matches(k, b.Binding) {
			return b.action, true
		}
	}
	return 0, false
}

// helpLines explains keys and signs.
func helpLines(width int) []line {
	out := []line{text(strong, "Keys")}
	t := table{columns: []column{{title: "KEY"}, {title: "DOES"}}}
	for _, b := range bindings {
		t.rows = append(t.rows, []line{text(accent, b.Help().Key), text(plain, b.Help().Desc)})
	}
	out = append(out, t.lines(width)[1:]...)
	out = append(out, nil, text(strong, "Signs"))
	signs := table{columns: []column{{}, {}}}
	for _, s := range []struct {
		mark  line
		means string
	}{
		{text(fine, markGood), "fine"}, {text(caution, markWarn), "degraded: it serves, or may serve, with less than it should have"}, {text(alarm, markBad), "critical: act now"},
		{text(accent, markPrimary), "PRIMARY: takes reads and writes of its shard"}, {text(plain, markReplica), "REPLICA: a copy"}, {text(faint, markSpare), "SPARE: a copy that waits to take over"},
		{text(plain, "ISR"), "in-sync set: the copies that hold all that was acknowledged"}, {text(plain, unknown), "not known; never a zero"},
		{spark([]int64{0, 50, 100, 200, 2000}, 100), "lag: up to ▄ within the bar of 100 ms, from ▅ on past it, four times as far each step"},
		{text(plain, "rf k"), "copies in all, and copies besides the primary that a write waits for"},
	} {
		signs.rows = append(signs.rows, []line{s.mark, text(plain, s.means)})
	}
	return append(out, signs.lines(width)[1:]...)
}
