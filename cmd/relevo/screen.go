package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// screen redraws a page in place.
type screen struct {
	rows func() int // of the terminal; 0 = not known
	last string
}

// terminal is the screen behind f; nil if f is no terminal.
func terminal(f *os.File) *screen {
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return &screen{rows: func() int {
		ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return 0
		}
		return int(ws.Row)
	}}
}

// open goes to the terminal's second page, hides the cursor and cuts long lines
// instead of wrapping them. close undoes it.
func (s *screen) open(w io.Writer)  { io.WriteString(w, "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J") }
func (s *screen) close(w io.Writer) { io.WriteString(w, "\x1b[?7h\x1b[?25h\x1b[?1049l") }

// draw writes text over what is there, in one go and only where something
// changed: nothing flickers.
func (s *screen) draw(w io.Writer, text string) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if rows := s.rows(); rows > 1 && len(lines) > rows {
		hidden := len(lines) - rows + 1
		lines = append(lines[:rows-1:rows-1], fmt.Sprintf("(%d more lines)", hidden))
	}
	frame := "\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J"
	if frame != s.last {
		s.last = frame
		io.WriteString(w, frame)
	}
}
