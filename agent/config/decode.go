package config

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"gopkg.in/yaml.v3"
)

// decoder collects what is wrong while it walks the file.
type decoder struct {
	file string
	errs []*Error
	// at is where each key that was given stands, by path: for checks that look
	// at several keys.
	at map[string]*yaml.Node
}

// fail notes an error at n; a nil n is the file as a whole.
func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	e := &Error{File: d.file, Path: path, Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	d.errs = append(d.errs, e)
}

func (d *decoder) err() error {
	if len(d.errs) == 0 {
		return nil
	}
	sort.SliceStable(d.errs, func(i, j int) bool {
		a, b := d.errs[i], d.errs[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	var all []error
	for i, e := range d.errs {
		if i == maxErrors {
			all = append(all, &Error{File: d.file, Msg: fmt.Sprintf("and %d more errors", len(d.errs)-i)})
			break
		}
		all = append(all, e)
	}
	return errors.Join(all...)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// section walks a mapping: every key at most once, none that is not in fields.
func (d *decoder) section(n *yaml.Node, path string, fields []field) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "is %s: a section with keys is needed (%s)", describe(n), keys(fields))
		return
	}
	byKey := map[string]*field{}
	for i := range fields {
		byKey[fields[i].key] = &fields[i]
	}
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			d.fail(k, path, "a key must be a word, not %s", describe(k))
			continue
		}
		key := k.Value
		f := byKey[key]
		if f == nil {
			d.fail(k, path, "unknown key %s: %s", quote(key), hint(key, path, fields))
			continue
		}
		if before := seen[key]; before != nil {
			d.fail(k, join(path, key), "is given twice: first at line %d", before.Line)
			continue
		}
		seen[key] = k
		p := join(path, key)
		d.at[p] = v
		if v.Kind == yaml.ScalarNode && v.Tag == "!!null" {
			d.fail(k, p, "has no value: give one, or remove the line")
			continue
		}
		if v.Kind == yaml.AliasNode {
			d.fail(v, p, "is an alias (*%s): write the value out", v.Value)
			continue
		}
		switch {
		case !d.plain(v, p):
		case f.sub != nil:
			d.section(v, p, f.sub())
		default:
			f.set(d, v, p)
		}
	}
	for _, f := range fields {
		if f.required && seen[f.key] == nil {
			d.fail(n, join(path, f.key), "is missing")
		}
	}
}

// plain refuses the corners of YAML that a configuration does not need: anchors
// and tags of one's own.
func (d *decoder) plain(n *yaml.Node, path string) bool {
	if n.Anchor != "" {
		d.fail(n, path, "has an anchor (&%s): write the value out where it is used", n.Anchor)
		return false
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.fail(n, path, "has a tag (%s): remove it", n.Tag)
		return false
	}
	return true
}

// describe says in words what a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!null":
			return "empty"
		case "!!bool":
			return "the truth value " + quote(n.Value)
		case "!!int", "!!float":
			return "the number " + quote(n.Value)
		}
		return "the text " + quote(n.Value)
	}
	return "nothing"
}

// quote makes a value safe and short enough to be shown.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}

func keys(fields []field) string {
	var k []string
	for _, f := range fields {
		k = append(k, f.key)
	}
	return strings.Join(k, ", ")
}

// hint says which key was probably meant, or which there are.
func hint(key, path string, fields []field) string {
	norm := normal(key)
	best, bestDist := "", 1+max(1, len(norm)/4)
	for _, f := range fields {
		if n := distance(norm, f.key); n < bestDist {
			best, bestDist = f.key, n
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	// The right key in the wrong section is the other common slip.
	if places := placesOf(norm); len(places) == 1 && places[0] != join(path, norm) {
		return fmt.Sprintf("it belongs into a section, as %s", places[0])
	}
	return "known here are " + keys(fields)
}

// placesOf lists the paths at which a key may stand.
func placesOf(key string) []string {
	var out []string
	for _, p := range allPaths() {
		if p == key || strings.HasSuffix(p, "."+key) {
			out = append(out, p)
		}
	}
	return out
}

// allPaths lists every key of the file by its path, in the order of the schema.
func allPaths() []string {
	var out []string
	var walk func(path string, fields []field)
	walk = func(path string, fields []field) {
		for _, f := range fields {
			p := join(path, f.key)
			out = append(out, p)
			if f.sub != nil {
				walk(p, f.sub())
			}
		}
	}
	walk("", schema(defaults()))
	return out
}

// normal undoes leaseTTL, lease-ttl and LEASE_TTL.
func normal(key string) string {
	if len(key) > 64 {
		key = key[:64]
	}
	var b strings.Builder
	for i, r := range key {
		switch {
		case r == '-' || r == ' ':
			b.WriteByte('_')
		case r >= 'A' && r <= 'Z':
			if i > 0 && key[i-1] >= 'a' && key[i-1] <= 'z' {
				b.WriteByte('_')
			}
			b.WriteRune(r - 'A' + 'a')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// distance counts the letters to add, drop, change or swap with their neighbour
// to turn a into b.
func distance(a, b string) int {
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
