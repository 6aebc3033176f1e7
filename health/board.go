package health

import (
	"path/filepath"
	"strings"
	"unicode"
)

// readBoard asks the device tree, which every Raspberry Pi has. On other hosts the
// model stays unknown.
func readBoard(proc string) Board {
	b, err := readFile(filepath.Join(proc, "device-tree", "model"))
	if err != nil {
		return Board{}
	}
	return Board{Model: printable(string(b), 80)}
}

// printable cuts a text from a file to something that can be shown: the device
// tree ends its texts with a zero byte.
func printable(s string, most int) string {
	s, _, _ = strings.Cut(s, "\x00")
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= most {
			break
		}
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
