package health

import (
	"errors"
	"fmt"
	"strings"
)

// digestVersion begins every digest: two-letter codes of the conditions that hold
// follow, in the order of the table. "1" alone means that nothing is wrong, an empty
// text that nothing is said.
const digestVersion = "1"

// MaxDigest is the length of the longest digest in bytes: gossip carries 512 for all
// that a member tells.
const MaxDigest = 64

// Digest writes the conditions that hold as a short text for gossip. The same
// conditions make the same text in whatever order they come.
func Digest(conditions []Condition) string {
	var b strings.Builder
	b.WriteString(digestVersion)
	for _, k := range table {
		for _, c := range conditions {
			if c.Type == k.typ && c.Status == Yes && b.Len()+len(k.code) <= MaxDigest {
				b.WriteString(k.code)
				break
			}
		}
	}
	return b.String()
}

// Gossiped is what a digest says.
type Gossiped struct {
	Types []Type // that hold; the gravest first
	// Strange counts codes that this version does not know: a newer one may have more.
	Strange int
}

var errDigest = errors.New("a digest is a version and codes of two small letters")

// ParseDigest reads what another host gossiped. It is safe for any text.
func ParseDigest(s string) (Gossiped, error) {
	if len(s) > MaxDigest {
		return Gossiped{}, fmt.Errorf("a digest of conditions has %d bytes, %d are allowed", len(s), MaxDigest)
	}
	codes, ok := strings.CutPrefix(s, digestVersion)
	if !ok || len(codes)%2 != 0 {
		return Gossiped{}, fmt.Errorf("read the digest of conditions %q: %w", s, errDigest)
	}
	said := [len(table)]bool{}
	var g Gossiped
	for ; codes != ""; codes = codes[2:] {
		if codes[0] < 'a' || codes[0] > 'z' || codes[1] < 'a' || codes[1] > 'z' {
			return Gossiped{}, fmt.Errorf("read the digest of conditions %q: %w", s, errDigest)
		}
		known := false
		for i, k := range table {
			if k.code == codes[:2] {
				said[i], known = true, true
			}
		}
		if !known {
			g.Strange++
		}
	}
	for i, k := range table {
		if said[i] {
			g.Types = append(g.Types, k.typ)
		}
	}
	return g, nil
}
