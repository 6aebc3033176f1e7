package avahi

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkName says why a text can be no instance name: a DNS label of UTF-8.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > MaxName:
		return fmt.Errorf("it has %d bytes, %d are allowed", len(name), MaxName)
	case !utf8.ValidString(name):
		return errors.New("it is not UTF-8")
	case strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("it has control characters")
	}
	return nil
}

// checkHost says why a text can be no host label: what resolvers take for one.
func checkHost(label string) error {
	if label == "" || len(label) > MaxName {
		return fmt.Errorf("1 to %d bytes are allowed, these are %d", MaxName, len(label))
	}
	if label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, func(r rune) bool { return !letterDigitHyphen(r) }) {
		return errors.New("letters, digits, and hyphens within are allowed")
	}
	return nil
}

func letterDigitHyphen(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-'
}

// cutBytes shortens a text to at most n bytes, at the end of a character, and
// leaves no half of an emoji (joiners, modifiers) behind.
func cutBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	for n > 0 {
		next, _ := utf8.DecodeRuneInString(s[n:])
		last, size := utf8.DecodeLastRuneInString(s[:n])
		if !joins(next) && last != zeroWidthJoiner {
			break
		}
		n -= size
	}
	return strings.TrimRight(s[:n], " ")
}

const zeroWidthJoiner = '\u200d'

// joins says that a character changes the one before it.
func joins(r rune) bool {
	return r == zeroWidthJoiner || unicode.In(r, unicode.Mn, unicode.Me) || r >= 0x1f3fb && r <= 0x1f3ff
}

// alternative is the next name to try where one is taken: "Web", "Web #2", "Web #3",
// as avahi-daemon counts.
func alternative(name string) string {
	base, n := name, 2
	if b, num, ok := cutLast(name, " #"); ok {
		if v, err := strconv.Atoi(num); err == nil && v >= 2 && v < 1e6 && strconv.Itoa(v) == num {
			base, n = b, v+1
		}
	}
	suffix := " #" + strconv.Itoa(n)
	return cutBytes(base, MaxName-len(suffix)) + suffix
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i <= 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// foldName is what DNS compares: names without regard to the case of ASCII letters.
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

// Printable makes a text from the network fit to be shown: at most n bytes, and
// whatever is no visible character is written as an escape.
func Printable(s string, n int) string {
	if len(s) <= n && !strings.ContainsFunc(s, unfit) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+size]
		switch {
		case r == utf8.RuneError && size == 1:
			piece = fmt.Sprintf(`\x%02x`, s[i])
		case unfit(r):
			piece = strings.Trim(strconv.QuoteRune(r), "'")
		}
		if b.Len()+len(piece) > n {
			break
		}
		b.WriteString(piece)
		i += size
	}
	return b.String()
}

// unfit characters move the cursor, turn the direction of writing, or are nothing.
// Joiners and variation selectors stay: emoji are made of them.
func unfit(r rune) bool {
	return !unicode.IsPrint(r) && r != zeroWidthJoiner && !unicode.Is(unicode.Variation_Selector, r)
}

// presentation writes a label as a DNS library shows it: that is what names in
// questions are compared with.
func presentation(label string) string {
	var b strings.Builder
	for i := range len(label) {
		switch c := label[i]; {
		case strings.IndexByte(`. '@;()"\`, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\%03d`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unescape undoes presentation.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i+2 < len(s) && isDigit(s[i]) && isDigit(s[i+1]) && isDigit(s[i+2]) {
			if n := int(s[i]-'0')*100 + int(s[i+1]-'0')*10 + int(s[i+2]-'0'); n < 256 {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
