package main

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// format of an answer, as a flag.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

var formats = []string{string(formatTable), string(formatJSON), string(formatYAML)}

func (f *format) String() string { return string(*f) }

// Type names the flag's value in help texts.
func (f *format) Type() string { return "format" }

// Set refuses what is no format.
func (f *format) Set(s string) error {
	if !slices.Contains(formats, s) {
		return fmt.Errorf("table, json or yaml is allowed")
	}
	*f = format(s)
	return nil
}

// encode writes v for machines. They often are a terminal with a person in front of it, so
// what cannot be printed is escaped: it means the same.
func encode(f format, v any) (string, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "", err
	}
	if f == formatJSON {
		return escape(f, string(b)) + "\n", nil
	}
	// JSON is YAML already; only its style has to go. So the two formats have the
	// same keys in the same order without a second set of tags.
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(escape(f, string(b))), &n); err != nil {
		return "", err
	}
	plainStyle(&n)
	var out strings.Builder
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&n); err != nil {
		return "", err
	}
	if err := enc.Close(); err != nil {
		return "", err
	}
	return escape(f, out.String()), nil
}

// escape replaces what cannot be printed by how strings of JSON, and such of YAML in double
// quotes, write it: \u009b.
func escape(f format, text string) string {
	steers := func(r rune) bool { return r != '\n' && unprintable(r) }
	if !strings.ContainsFunc(text, steers) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch hi, lo := utf16.EncodeRune(r); {
		case !steers(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, "\\u%04x", r)
		case f == formatYAML:
			fmt.Fprintf(&b, "\\U%08x", r)
		default:
			fmt.Fprintf(&b, "\\u%04x\\u%04x", hi, lo)
		}
	}
	return b.String()
}

func plainStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode && strings.ContainsFunc(n.Value, unprintable) {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		plainStyle(c)
	}
}

// span is a piece of a line with one colour; "" = none.
type span struct{ colour, text string }

const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	green  = "\x1b[32m"
	bold   = "\x1b[1m"
	faint  = "\x1b[2m"
	plain  = "\x1b[0m"
)

// page is text for a person. All of it goes through spans, so nothing that came
// from the network can steer the terminal.
type page struct {
	b      strings.Builder
	now    time.Time
	colour bool
}

func (p *page) write(s span) {
	if p.colour && s.colour != "" && s.text != "" {
		p.b.WriteString(s.colour + clean(s.text) + plain)
		return
	}
	p.b.WriteString(clean(s.text))
}

// line writes spans one after the other and ends the line.
func (p *page) line(spans ...span) {
	for _, s := range spans {
		p.write(s)
	}
	p.b.WriteByte('\n')
}

func (p *page) text(format string, args ...any) { p.line(span{text: fmt.Sprintf(format, args...)}) }

// Bounds of a table: what is right next to a text that is wider is not aligned, and nobody
// reads more rows. Without them a short answer could be made to fill a memory.
const (
	maxColumn = 120
	maxRows   = 20000
)

// table aligns columns. The last one of a row is not padded.
func (p *page) table(head []string, rows [][]span) {
	all := make([][]span, 0, len(rows)+1)
	if len(head) > 0 {
		h := make([]span, len(head))
		for i, t := range head {
			h[i] = span{faint, t}
		}
		all = append(all, h)
	}
	all = append(all, rows[:min(len(rows), maxRows)]...)
	var widths []int
	for _, row := range all {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], min(width(c.text), maxColumn))
		}
	}
	for _, row := range all {
		last := len(row) - 1
		for last > 0 && row[last].text == "" {
			last--
		}
		for i, c := range row[:last+1] {
			p.write(c)
			if i < last {
				p.b.WriteString(strings.Repeat(" ", max(widths[i]-width(c.text), 0)+2))
			}
		}
		p.b.WriteByte('\n')
	}
	if more := len(rows) - maxRows; more > 0 {
		p.text("(%d more)", more)
	}
}

func width(s string) int { return utf8.RuneCountInString(clean(s)) }

// maxShown bounds one piece of text, in bytes: nothing honest is longer.
const maxShown = 2000

// clean makes a text safe for a terminal: what cannot be printed becomes "?".
func clean(s string) string {
	if len(s) > maxShown {
		s = s[:maxShown] + "…"
	}
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '?'
		}
		return r
	}, s)
}

// cleanLines is clean for a text of several lines.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = clean(l)
	}
	return strings.Join(lines, "\n")
}

func unprintable(r rune) bool {
	return r != ' ' && (r == utf8.RuneError || !unicode.IsPrint(r))
}

// ago is how long t is past, for people.
func (p *page) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return human(max(0, p.now.Sub(t)))
}

// human writes a length of time with two units at most: 0.4s, 12s, 3m 20s, 2h 5m,
// 4d 3h.
func human(d time.Duration) string {
	two := func(big time.Duration, b string, small time.Duration, s string) string {
		if rest := d % big / small; rest > 0 {
			return fmt.Sprintf("%d%s %d%s", d/big, b, rest, s)
		}
		return fmt.Sprintf("%d%s", d/big, b)
	}
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "-" + human(-max(d, -math.MaxInt64)) // the least has no opposite
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return two(time.Minute, "m", time.Second, "s")
	case d < day:
		return two(time.Hour, "h", time.Minute, "m")
	}
	return two(day, "d", time.Hour, "h")
}

func seconds(s float64) string {
	return human(time.Duration(min(max(s, -3e9), 3e9) * float64(time.Second)))
}

// size writes bytes with the unit that leaves one to four digits.
func size(b float64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	i := 0
	for b >= 1000 && i < len(units)-1 {
		b, i = b/1000, i+1
	}
	if i == 0 || b >= 100 {
		return fmt.Sprintf("%.0f %s", b, units[i])
	}
	return fmt.Sprintf("%.1f %s", b, units[i])
}

// count writes "1 standby", "2 standbys".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
