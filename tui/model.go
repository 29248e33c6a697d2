package tui

import (
	"slices"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/themisdb/themis/pkg/health"
)

// model is the program's state. Update takes a message and returns a state and a command; it asks nobody and never waits.
type model struct {
	scene  Scene
	look   look
	size   Size
	colors palette
	ascii  bool

	now     time.Time // as the last message told it
	heard   time.Time // when the report came
	lostAt  time.Time // when the source began to fail; zero: it doesn't
	history *History
}

// news is one turn of the source: a frame, or why there is none.
type news struct {
	frame health.Frame
	err   error
	at    time.Time
}

// tick is the time, once a second.
type tick time.Time

func newModel(ascii bool, now time.Time) model {
	return model{size: Size{80, 24}, colors: paletteFor(true), ascii: ascii, now: now, history: &History{}}
}

// Init implements tea.Model.
func (m model) Init() tea.Cmd { return tea.Batch(tea.RequestBackgroundColor, nextTick()) }

func nextTick() tea.Cmd { return tea.Tick(time.Second, func(t time.Time) tea.Msg { return tick(t) }) }

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.size = Size{msg.Width, msg.Height}
	case tea.BackgroundColorMsg:
		m.colors = paletteFor(msg.IsDark())
	case news:
		m = m.take(msg)
	case tick:
		m.now = time.Time(msg)
		cmd = nextTick()
	case tea.KeyPressMsg:
		var leave bool
		if m.look, leave = m.look.press(msg, m.room()); leave {
			return m, tea.Quit
		}
	default:
		return m, nil
	}
	m = m.aged()
	m.look = m.look.clamp(m.scene, m.size)
	return m, cmd
}

// take makes a frame, or the loss of the source, the state.
func (m model) take(n news) model {
	m.now = n.at
	if n.err != nil {
		if m.lostAt.IsZero() {
			m.lostAt = n.at
		}
		m.scene.Problem = n.err.Error()
		return m
	}
	m.history.Add(n.frame.Report)
	m.heard, m.lostAt = n.at, time.Time{}
	m.scene = m.scene.with(n.frame, m.history)
	return m
}

// with is the scene after a frame.
func (s Scene) with(f health.Frame, h *History) Scene {
	s.Known, s.Report, s.History, s.Problem, s.Age, s.Lost = true, f.Report, h, "", 0, 0
	events := slices.Clone(s.Events)
	for _, e := range f.Events {
		known := false
		for _, old := range events {
			known = known || old.ID == e.ID
		}
		if !known {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return compareEvents(b, a) })
	s.Events = events[:min(len(events), eventsMax)]
	return s
}

// aged brings the ages up to now.
func (m model) aged() model {
	m.scene.Age, m.scene.Lost = 0, 0
	if m.scene.Known {
		m.scene.Age = max(0, m.now.Sub(m.heard))
	}
	if !m.lostAt.IsZero() {
		m.scene.Lost = max(0, m.now.Sub(m.lostAt))
	}
	return m
}

func (m model) room() int { return max(1, lay(m.scene, m.look, m.size).room) }

// View implements tea.Model.
func (m model) View() tea.View {
	lines := draw(m.scene, m.look, m.size)
	if m.ascii {
		lines = toASCII(lines)
	}
	v := tea.NewView(m.colors.paint(lines))
	v.AltScreen = true
	v.WindowTitle = "themis-cli top"
	if m.scene.Known {
		v.WindowTitle = printable(m.scene.Report.Cluster) + ": " + printable(string(m.scene.Report.Status))
	}
	return v
}

const filterMax = 40

// press is the look after a key, and whether it asks to leave. page is how many lines a page has.
func (l look) press(k tea.KeyPressMsg, page int) (look, bool) {
	if l.typing {
		return l.write(k)
	}
	a, ok := actionOf(k)
	if !ok {
		return l, false
	}
	by := 0
	switch a {
	case quit:
		return l, true
	case help:
		l.help = !l.help
		l.top[screens] = 0
	case drop:
		l.help, l.filter = false, ""
	case filter:
		l.typing, l.help = true, false
	case showOverview, showReplication:
		l.screen, l.help = screen(a-showOverview), false
	case nextScreen:
		l.screen, l.help = (l.screen+1)%screens, false
	case previousScreen:
		l.screen, l.help = (l.screen+screens-1)%screens, false
	case down:
		by = 1
	case up:
		by = -1
	case pageDown:
		by = page
	case pageUp:
		by = -page
	case first:
		by = -farAway
	case last:
		by = farAway
	}
	if l.screen == replicationScreen && !l.help {
		l.selected += by
	} else {
		l.top[l.page()] += by
	}
	return l, false
}

const farAway = 1 << 20 // farther than any list is long; clamp brings it back

// write is a key while the filter is being written.
func (l look) write(k tea.KeyPressMsg) (look, bool) {
	switch k.String() {
	case "ctrl+c":
		return l, true
	case "esc":
		l.typing, l.filter = false, ""
	case "enter":
		l.typing = false
	case "backspace":
		_, n := utf8.DecodeLastRuneInString(l.filter)
		l.filter = l.filter[:len(l.filter)-n]
	default:
		if t := printable(k.Text); len(l.filter)+len(t) <= filterMax {
			l.filter += t
		}
	}
	return l, false
}
