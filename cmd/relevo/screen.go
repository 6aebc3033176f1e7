package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// screen redraws a page in place.
type screen struct {
	rows func() int // of the terminal; 0 = not known
	cols func() int // nil or 0 = not known

	drawn          []string // lines that are there; nil = nothing is
	lastRows, wide int      // of the terminal then
}

// terminal is the screen behind f; nil if f is no terminal.
func terminal(f *os.File) *screen {
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	size := func() *unix.Winsize {
		ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return &unix.Winsize{}
		}
		return ws
	}
	return &screen{rows: func() int { return int(size().Row) }, cols: func() int { return int(size().Col) }}
}

// open goes to the terminal's second page, hides the cursor and cuts long lines
// instead of wrapping them. close undoes it.
func (s *screen) open(w io.Writer)  { io.WriteString(w, "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J") }
func (s *screen) close(w io.Writer) { io.WriteString(w, "\x1b[?7h\x1b[?25h\x1b[?1049l") }

// draw writes text over what is there, in one go and only the lines that changed:
// nothing flickers, and little goes over a slow connection.
func (s *screen) draw(w io.Writer, text string) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	rows, cols := s.rows(), 0
	if s.cols != nil {
		cols = s.cols()
	}
	if rows > 1 && len(lines) > rows {
		hidden := len(lines) - rows + 1
		lines = append(lines[:rows-1:rows-1], fmt.Sprintf("(%d more lines)", hidden))
	}
	if s.drawn == nil || rows != s.lastRows || cols != s.wide {
		// The terminal has its own ideas of what a page looks like that was resized.
		s.drawn, s.lastRows, s.wide = lines, rows, cols
		io.WriteString(w, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
		return
	}
	var b strings.Builder
	for i, l := range lines {
		if i >= len(s.drawn) || l != s.drawn[i] {
			fmt.Fprintf(&b, "\x1b[%d;1H%s\x1b[K", i+1, l)
		}
	}
	if len(lines) < len(s.drawn) {
		fmt.Fprintf(&b, "\x1b[%d;1H\x1b[J", len(lines)+1)
	}
	s.drawn = slices.Clone(lines)
	if b.Len() > 0 {
		io.WriteString(w, b.String())
	}
}

// quiet makes a terminal give every key at once and show none of them, and takes
// Ctrl-Z from it, which would leave the screen as it is. What it returns undoes it. A
// file that is no terminal stays what it is.
func quiet(f *os.File) (undo func()) {
	if f == nil {
		return func() {}
	}
	fd := int(f.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	now := *was
	now.Lflag &^= unix.ICANON | unix.ECHO
	now.Cc[unix.VMIN], now.Cc[unix.VTIME], now.Cc[unix.VSUSP] = 1, 0, 0
	if unix.IoctlSetTermios(fd, unix.TCSETS, &now) != nil {
		return func() {}
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }
}

// keys reads what is typed until ctx ends or there is no more.
func keys(ctx context.Context, f *os.File, typed func(byte)) {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	var b [16]byte
	for ctx.Err() == nil {
		n, err := unix.Poll(fds, 100)
		if err == unix.EINTR || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return
		}
		if n, err = unix.Read(int(f.Fd()), b[:]); err == unix.EINTR {
			continue
		} else if err != nil || n == 0 {
			return
		}
		for _, k := range b[:n] {
			typed(k)
		}
	}
}
