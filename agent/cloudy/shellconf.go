package cloudy

import (
	"errors"
	"strings"
)

// parse reads lines of KEY=value as a shell would assign them: quotes, backslashes,
// comments, several on a line, `export`. Whatever a shell would have to execute is
// a problem, and the variable stays as it was.
func (r *reader) parse(path, text string) {
	for i, line := range strings.Split(text, "\n") {
		rest := strings.TrimSpace(line)
		for rest != "" && rest[0] != '#' {
			word, after, err := shellWord(rest)
			if err != nil {
				r.problem("%s:%d: %v; the line is skipped from there", path, i+1, err)
				break
			}
			rest = strings.TrimLeft(after, " \t\r;")
			if word == "export" {
				continue
			}
			key, value, ok := strings.Cut(word, "=")
			if !ok || !variable(key) {
				r.problem("%s:%d: %.40q is no KEY=value", path, i+1, word)
				break // the rest are its arguments
			}
			r.vars[key] = value
		}
	}
}

func variable(key string) bool {
	for i, c := range key {
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return key != ""
}

// shellWord takes the first word off a line, without its quotes.
func shellWord(line string) (word, rest string, err error) {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'':
			if c == quote {
				quote = 0
			} else {
				b.WriteByte(c)
			}
		case c == '\\':
			if i++; i == len(line) {
				return "", "", errors.New("a line that goes on is not read")
			}
			if c = line[i]; quote == '"' && !strings.ContainsRune("\"\\$`", rune(c)) {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		case c == '$' || c == '`':
			return "", "", errors.New("variables and commands are not read")
		case quote == '"':
			if c == quote {
				quote = 0
			} else {
				b.WriteByte(c)
			}
		case c == '\'' || c == '"':
			quote = c
		case strings.IndexByte(" \t\r;", c) >= 0:
			return b.String(), line[i:], nil
		case strings.IndexByte("|&<>()", c) >= 0:
			return "", "", errors.New("commands are not read")
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", "", errors.New("a quotation mark is not closed")
	}
	return b.String(), "", nil
}
