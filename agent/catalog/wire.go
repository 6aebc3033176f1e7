package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"relevo.dev/relevo/avahi"
)

// Have names a list: whose life it is of, how many there were before in that life, and
// what is in it.
type Have struct {
	Epoch   string `json:"epoch"` // of the owner's agent: 4 characters by chance
	Version uint64 `json:"version"`
	Digest  string `json:"digest"` // of the list as it is sent: 11 characters
}

// tag is the list's name as it is gossiped: epoch.version.digest.
func (h Have) tag() string { return h.Epoch + "." + strconv.FormatUint(h.Version, 36) + "." + h.Digest }

const (
	epochLen  = 4
	digestLen = 11
)

func newEpoch(n uint32) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return base64.RawURLEncoding.EncodeToString(b[:3])
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:8])
}

var errTag = errors.New("this is no tag of a catalog")

// parseTag reads a tag.
func parseTag(s string) (Have, error) {
	p := strings.Split(s[:min(len(s), 64)], ".")
	if len(p) != 3 || len(p[0]) != epochLen || len(p[2]) != digestLen {
		return Have{}, errTag
	}
	for _, t := range []string{p[0], p[2]} {
		if _, err := base64.RawURLEncoding.DecodeString(t); err != nil {
			return Have{}, errTag
		}
	}
	v, err := strconv.ParseUint(p[1], 36, 64)
	if err != nil {
		return Have{}, errTag
	}
	return Have{p[0], v, p[2]}, nil
}

// covers says whether who has h need not ask for the list that a tag names: it has the
// same, or got a newer one before the tag came.
func (h Have) covers(tag Have) bool {
	return h.Digest == tag.Digest || h.Epoch == tag.Epoch && h.Version >= tag.Version
}

// Answer is a list on its way.
type Answer struct {
	Have
	Same     bool            `json:"same,omitempty"` // the asker has it
	Entries  json.RawMessage `json:"entries,omitempty"`
	Problems []Problem       `json:"problems,omitempty"`
}

// list is what a member offers, as others are told.
type list struct {
	have     Have
	entries  []Entry // cleaned
	problems []Problem
	text     json.RawMessage // of entries
}

// encode makes the list of entries and problems; false if it is the same as before.
// What is too much for one host is left out, from the end, and told as a problem.
func (l *list) encode(own []Entry, problems []Problem) (changed bool) {
	entries := make([]Entry, 0, len(own))
	var b bytes.Buffer
	b.WriteByte('[')
	for _, e := range own {
		e, ok := e.clean()
		if !ok {
			problems = append(problems, Problem{Text: fmt.Sprintf("service %s: a name, a type and a port from 1 to 65535 are needed", avahi.Printable(e.Name, 60))})
			continue
		}
		text, err := json.Marshal(e)
		if err != nil || b.Len()+len(text) > maxList {
			problems = append(problems, Problem{Text: fmt.Sprintf("%d services are left out: together with the others they have more than %d KiB", len(own)-len(entries), maxList>>10)})
			break
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.Write(text)
		entries = append(entries, e)
	}
	b.WriteByte(']')
	l.problems = cleanProblems(problems, "")
	told, _ := json.Marshal(l.problems) // texts only
	d := digest(append(b.Bytes()[:b.Len():b.Len()], told...))
	if changed = d != l.have.Digest; changed {
		l.have.Version++
		l.have.Digest, l.entries, l.text = d, entries, b.Bytes()
	}
	return changed
}

func cleanProblems(ps []Problem, node string) []Problem {
	var out []Problem
	for i, p := range ps {
		if i == maxProblems {
			out = append(out, Problem{node, fmt.Sprintf("and %d more", len(ps)-i)})
			break
		}
		out = append(out, Problem{node, avahi.Printable(p.Text, maxWhy)})
	}
	return out
}

// decodeEntries reads a member's list. Too many are cut off, what is no entry is left
// out; text that is no list is an error.
func decodeEntries(text []byte, owner string) (out []Entry, err error) {
	if len(text) > maxList+2 {
		return nil, fmt.Errorf("a list of %d bytes, %d are allowed", len(text), maxList+2)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, fmt.Errorf("no list of services: %w", errors.Join(err))
	}
	for n := 0; dec.More() && n < maxEntries; n++ {
		var e Entry
		if err := dec.Decode(&e); err != nil {
			return nil, fmt.Errorf("service %d of the list: %w", n+1, err)
		}
		e, ok := e.clean()
		if !ok {
			continue
		}
		e.Owner = owner
		if e.Origin != Cloudy {
			e.Node = owner // nobody speaks for another
		}
		out = append(out, e)
	}
	return out, nil
}
