package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/health"
)

// pty makes a pseudo-terminal of a size.
func pty(t *testing.T, rows, cols uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no pseudo-terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no pseudo-terminals here: ", err)
	}
	t.Cleanup(func() { slave.Close() })
	resize(t, master, rows, cols)
	return master, slave
}

func resize(t *testing.T, f *os.File, rows, cols uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
}

// glass is what a person sees: as much of a terminal as is asked of it. Anything else
// makes the test fail.
type glass struct {
	t *testing.T

	mu          sync.Mutex
	lines       []string
	row         int
	second      bool // page
	hidden      bool // cursor
	wraps       bool
	full, bytes int // whole pages that were drawn; all that was written
	changed     chan struct{}
}

// watch reads what is written to the terminal until it is closed.
func (g *glass) watch(f *os.File) {
	buf, rest := make([]byte, 64<<10), ""
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		g.mu.Lock()
		g.bytes += n
		rest = g.show(rest + string(buf[:n]))
		g.mu.Unlock()
		select {
		case g.changed <- struct{}{}:
		default:
		}
	}
}

// show applies what was written; an escape that is not whole yet is returned.
func (g *glass) show(s string) string {
	for s != "" {
		if s[0] != 0x1b {
			end := strings.IndexAny(s, "\x1b\r\n")
			switch {
			case end == 0 && s[0] == '\n':
				g.row++
				s = s[1:]
			case end == 0:
				s = s[1:]
			case end < 0:
				g.put(s)
				s = ""
			default:
				g.put(s[:end])
				s = s[end:]
			}
			continue
		}
		end := strings.IndexAny(s, "HJKhlm")
		if end < 0 {
			return s
		}
		code := s[1 : end+1]
		s = s[end+1:]
		row := 0
		switch {
		case code == "[H":
			g.row, g.full = 0, g.full+1
			for i := range g.lines {
				g.lines[i] = ""
			}
		case code == "[K", strings.HasSuffix(code, "m"):
		case code == "[J":
			g.lines = g.lines[:min(len(g.lines), g.row+1)]
		case code == "[2J":
			g.lines = nil
		case code == "[?1049h", code == "[?1049l":
			g.second = code == "[?1049h"
		case code == "[?25h", code == "[?25l":
			g.hidden = code == "[?25l"
		case code == "[?7h", code == "[?7l":
			g.wraps = code == "[?7h"
		default:
			if n, _ := fmt.Sscanf(code, "[%d;1H", &row); n != 1 {
				g.t.Errorf("the terminal is told %q", code)
			}
			g.row = row - 1
			if g.row < len(g.lines) {
				g.lines[g.row] = ""
			}
		}
	}
	return ""
}

func (g *glass) put(text string) {
	for len(g.lines) <= g.row {
		g.lines = append(g.lines, "")
	}
	g.lines[g.row] += text
}

// until waits until what is seen is so.
func (g *glass) until(what string, is func(page string) bool) {
	g.t.Helper()
	for {
		g.mu.Lock()
		page := strings.Join(g.lines, "\n")
		g.mu.Unlock()
		if is(page) {
			return
		}
		select {
		case <-g.changed:
		case <-g.t.Context().Done():
			g.t.Fatalf("still not %s:\n%s", what, page)
		case <-time.After(20 * time.Second):
			g.t.Fatalf("still not %s:\n%s", what, page)
		}
	}
}

// live is `relevo top` on a pseudo-terminal.
type live struct {
	*glass
	src           *fake
	master, slave *os.File
	before        *unix.Termios
	code          chan int
	cancel        context.CancelFunc
}

func startTop(t *testing.T, rows, cols uint16) *live {
	return startTopOf(t, rows, cols, &fake{health: boards()})
}

func startTopOf(t *testing.T, rows, cols uint16, src *fake) *live {
	master, slave := pty(t, rows, cols)
	l := &live{glass: &glass{t: t, wraps: true, changed: make(chan struct{}, 1)}, src: src, master: master, slave: slave, code: make(chan int, 1)}
	var err error
	if l.before, err = unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	socket := serve(t, l.src)
	go l.watch(master)
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	go func() {
		l.code <- run(ctx, []string{"--socket", socket, "top"}, &app{stdin: slave, stdout: slave, stderr: slave, now: func() time.Time { return now },
			env: func(string) string { return "" }, screen: terminal(slave), tick: 5 * time.Millisecond})
	}()
	return l
}

// ends checks that the terminal is as it was.
func (l *live) ends() {
	l.t.Helper()
	if c := <-l.code; c != exitOK {
		l.t.Errorf("code %d", c)
	}
	l.until("the first page, a cursor, long lines wrapped", func(string) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !l.second && !l.hidden && l.wraps
	})
	after, err := unix.IoctlGetTermios(int(l.slave.Fd()), unix.TCGETS)
	if err != nil || *after != *l.before {
		l.t.Errorf("the terminal is not what it was: %v\n%+v\n%+v", err, after, l.before)
	}
}

func (f *fake) setHealth(h api.Health) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health = h
}

// What is seen follows the boards, only what changed is written, and q ends it.
func TestTopLive(t *testing.T) {
	l := startTop(t, 24, 80)
	l.until("the boards", func(p string) bool {
		return strings.Contains(p, "n1 is the master, 2 of 3 boards answer") && strings.Contains(p, "n3: its voltage is too low, as it gossiped last")
	})
	l.mu.Lock()
	for _, line := range l.lines {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	before := l.bytes
	l.mu.Unlock()
	if now, _ := unix.IoctlGetTermios(int(l.slave.Fd()), unix.TCGETS); now.Lflag&unix.ECHO != 0 {
		t.Error("what is typed is shown")
	}
	h := boards()
	h.Nodes[1].Report.Temperature = health.Of(77)
	l.src.setHealth(h)
	l.until("another temperature", func(p string) bool { return strings.Contains(p, "77°C") })
	l.mu.Lock()
	if n := l.bytes - before; n > 100 || l.full != 1 {
		t.Errorf("%d bytes and %d whole pages for one line that changed", n, l.full-1)
	}
	l.mu.Unlock()

	// A window of another size is drawn whole.
	resize(t, l.master, 5, 40)
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	l.until("the rest cut off", func(p string) bool {
		return strings.Contains(p, "more lines)") && strings.Count(p, "\n") == 4
	})
	if _, err := l.master.WriteString("xq"); err != nil {
		t.Fatal(err)
	}
	l.ends()
}

// An agent that restarts is told of and waited for; Ctrl-C ends it.
func TestTopAgentAway(t *testing.T) {
	l := startTop(t, 24, 80)
	l.until("the boards", func(p string) bool { return strings.Contains(p, "n1 is the master") })
	l.src.set(api.Status{}, fmt.Errorf("the agent restarts\x1b[2J"))
	l.until("the error", func(p string) bool {
		return strings.Contains(p, "the agent restarts?[2J") && strings.Contains(p, "n1 is the master")
	})
	l.src.set(api.Status{}, nil)
	l.until("the boards again", func(p string) bool {
		return strings.HasPrefix(p, "n1 is the master") && !strings.Contains(p, "restarts")
	})
	l.cancel()
	l.ends()
}

// Where there was no answer yet, as on a host that was removed, the reason is all that is
// shown, and no table of nobody.
func TestTopNobody(t *testing.T) {
	l := startTopOf(t, 24, 80, &fake{err: fmt.Errorf("this host was removed")})
	l.until("the reason alone", func(p string) bool {
		return strings.Contains(p, "this host was removed") && !strings.Contains(p, "boards")
	})
	l.cancel()
	l.ends()
}

// A name that is too long, and fifty boards, do not break the page.
func TestTopMany(t *testing.T) {
	var h api.Health
	for i := range 50 {
		n := boards().Nodes[0]
		n.Node = fmt.Sprintf("a-board-with-a-very-long-name-%02d", i)
		n.Conditions = append(n.Conditions, health.Condition{Type: health.FilesystemErrorsGrowing, Status: health.Yes, Message: strings.Repeat("long ", 100)})
		n.LagSeconds = ptr(86399.0)
		h.Nodes = append(h.Nodes, n)
	}
	for line := range strings.Lines(topText(&app{now: func() time.Time { return now }}, h, 80)) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}
