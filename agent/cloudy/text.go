package cloudy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// safe makes text that no reader of Cloudy's stumbles over, at most max bytes:
// white space would cut the list on every node, an apostrophe becomes a quotation
// mark there, a backslash or a quotation mark breaks its JSON, and angle brackets
// and ampersands reach browsers as they are.
func safe(text string, max int) string {
	return cut(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r) || unicode.In(r, unicode.Z):
			return '_'
		case r == '&':
			return '+'
		case strings.ContainsRune("\"'`<>\\", r) || invisible(r):
			return -1
		}
		return r
	}, text), max)
}

// clean makes text from the network harmless, and leaves it legible: what controls
// terminals and the direction of writing goes, and so do angle brackets, because
// not everybody who shows it will escape it.
func clean(text string, max int) string {
	return cut(strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			return ' '
		case r == '<' || r == '>' || invisible(r):
			return -1
		}
		return r
	}, text)), max)
}

// invisible is what nobody sees and something obeys: control, format and private
// characters, line separators, and what is no UTF-8.
func invisible(r rune) bool {
	return r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp)
}

// cut keeps at most max bytes, and no half character.
func cut(text string, max int) string {
	if len(text) <= max {
		return text
	}
	for max > 0 && !utf8.RuneStart(text[max]) {
		max--
	}
	return text[:max]
}

// joinTXT writes key=value pairs as Cloudy's one string, those that fit into max
// bytes. Its own scripts put spaces
// between them and thereby break the list; its page splits at ampersands.
func joinTXT(pairs []string, max int) string {
	var b strings.Builder
	for _, p := range pairs {
		if p = safe(p, len(p)); p == "" || b.Len()+1+len(p) > max {
			continue // half a value is a wrong one
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p)
	}
	return b.String()
}

// splitTXT reads that string, however it is divided.
func splitTXT(text string) []string {
	var pairs []string
	for p := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ' ' || r == '&' }) {
		if p = clean(p, 255); p != "" && p[0] != '=' {
			pairs = append(pairs, p)
		}
	}
	return pairs
}
