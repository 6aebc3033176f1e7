package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxSize of a configuration file, in bytes. reference.yaml has under 5 KiB.
const maxSize = 64 << 10

// maxErrors that are told of one file; the rest is counted.
const maxErrors = 50

// Error is one thing wrong in a file.
type Error struct {
	File         string
	Line, Column int    // both from 1; 0 = the file as a whole
	Path         string // key such as candidate.vip.port; "" = none
	Msg          string // what is wrong and what is allowed
}

// Error reads as file:line:column: key: what is wrong.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, max(e.Column, 1))
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Load reads and checks the file at path. Its errors are those of [Parse], or say
// that the file cannot be read and what to do about it.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the configuration: %w; make a cluster with `relevo init`, join one with `relevo join`, or name another file", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	return Parse(f, path)
}

// Parse reads a configuration. name is what errors call the file. All that is
// wrong is returned together, as a join of [*Error], in the order of the file.
func Parse(r io.Reader, name string) (*Config, error) {
	return parse(r, name, os.Hostname)
}

func parse(r io.Reader, name string, hostname func() (string, error)) (*Config, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > maxSize {
		return nil, &Error{File: name, Msg: fmt.Sprintf("is larger than %d KiB: this is no relevo.yaml", maxSize>>10)}
	}
	root, err := document(text, name)
	if err != nil {
		return nil, err
	}
	c := defaults()
	d := &decoder{file: name, at: map[string]*yaml.Node{}}
	d.section(root, "", schema(c))
	d.finish(c, hostname)
	if err := d.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// document is the one mapping that the file is made of.
func document(text []byte, name string) (*yaml.Node, error) {
	empty := &Error{File: name, Line: 1, Column: 1, Msg: "is empty: at least `cluster: NAME` is needed"}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, empty
	} else if err != nil {
		return nil, syntaxError(name, text, err)
	}
	if err := dec.Decode(&more); err == nil {
		return nil, &Error{File: name, Line: more.Line, Column: more.Column, Msg: "a second document begins here: one file is one configuration, remove the `---`"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxError(name, text, err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, empty
	}
	if root := doc.Content[0]; root.Kind != yaml.ScalarNode || root.Tag != "!!null" {
		return root, nil
	}
	return nil, empty
}

// syntaxError gives what the YAML parser says a place and plainer words.
func syntaxError(name string, text []byte, err error) error {
	msg := err.Error()
	e := &Error{File: name, Line: 1, Column: 1}
	if m := regexp.MustCompile(`^yaml: line (\d+): `).FindStringSubmatch(msg); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		msg = msg[len(m[0]):]
	}
	msg = strings.TrimPrefix(msg, "yaml: ")
	if lines := bytes.Split(text, []byte("\n")); e.Line >= 1 && e.Line <= len(lines) {
		line := lines[e.Line-1]
		e.Column = 1 + len(line) - len(bytes.TrimLeft(line, " \t"))
		if bytes.HasPrefix(bytes.TrimLeft(line, " "), []byte("\t")) {
			msg = "a tab cannot indent: use spaces"
		}
	}
	e.Msg = "is not YAML near this line: " + msg
	return e
}
