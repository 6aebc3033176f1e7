package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Token is what a person carries from a member to a new host. It says which cluster is
// meant, so that the host can tell an impostor, and holds a secret, which never travels:
// the host signs with a key that is derived from it.
//
// Written, it is six groups of eight characters in Crockford's alphabet (no I, L, O, U;
// case does not matter). Six of a group carry 30 of 180 bits: version (4), the first 88
// bits of the CA's [Fingerprint], 88 bits of secret. Two are a Reed-Solomon code over
// the group and its number, so that a slip of the pen is found where it is.
type Token struct {
	cluster [tokenHalf]byte
	secret  [tokenHalf]byte
}

const (
	tokenVersion = 1
	tokenHalf    = 11 // bytes
	tokenGroups  = 6
	groupData    = 6
	groupSize    = 8
	tokenSymbols = tokenGroups * groupSize
	alphabet     = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	// MaxToken is the longest text that is looked at as a token, in bytes.
	MaxToken = 256
)

// NewToken makes one for the cluster, by the CA that issues now.
func NewToken(id *Identity) Token {
	t := Token{cluster: half(id.IssuingCA())}
	rand.Read(t.secret[:]) // never fails: the runtime ends the program first
	return t
}

func half(fingerprint string) (h [tokenHalf]byte) {
	b, _ := hex.DecodeString(fingerprint)
	copy(h[:], b)
	return h
}

// ID names the token without telling the secret: eight characters.
func (t Token) ID() string {
	sum := sha256.Sum256(append([]byte("relevo token id\x00"), t.secret[:]...))
	var out [groupSize]byte
	for i := range out {
		out[i] = alphabet[sum[i]&31]
	}
	return string(out[:])
}

// ClusterPrefix is how the fingerprint of the cluster's CA begins, in hex. As long as the CA
// was not changed, the cluster's ID begins so.
func (t Token) ClusterPrefix() string { return hex.EncodeToString(t.cluster[:]) }

// signer is the key that proves the token.
func (t Token) signer() ed25519.PrivateKey {
	seed := sha256.Sum256(append([]byte("relevo token key\x00"), t.secret[:]...))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Public is what the cluster keeps of a token: enough to check a proof, not to give one.
func (t Token) Public() []byte { return t.signer().Public().(ed25519.PublicKey) }

// of says whether the token is for the cluster of that CA.
func (t Token) of(ca *x509.Certificate) bool { return t.cluster == half(Fingerprint(ca)) }

// String writes the token for people.
func (t Token) String() string {
	bits := append(append([]byte{}, t.cluster[:]...), t.secret[:]...)
	// 180 bits, the version first.
	sym := make([]byte, 0, tokenGroups*groupData)
	acc, n := uint(tokenVersion), 4
	for _, b := range bits {
		acc, n = acc<<8|uint(b), n+8
		for n >= 5 {
			n -= 5
			sym = append(sym, byte(acc>>n)&31)
		}
	}
	var out strings.Builder
	for g := range tokenGroups {
		if g > 0 {
			out.WriteByte('-')
		}
		for _, s := range protect(g, sym[g*groupData:(g+1)*groupData]) {
			out.WriteByte(alphabet[s])
		}
	}
	return out.String()
}

// LooksLikeToken says whether a text was meant as a token, well written or not, and not
// as the name of a file.
func LooksLikeToken(text string) bool {
	if len(text) > MaxToken {
		return false
	}
	letters := 0
	for _, r := range strings.TrimSpace(text) {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			letters++
		case r == '-' || r == ' ':
		default:
			return false
		}
	}
	return letters >= tokenSymbols-2*groupSize
}

// ParseToken reads a token as people type it: in any case, I and L for 1, O for 0, with
// blanks or hyphens wherever they are. Its errors say which group and character is wrong.
func ParseToken(text string) (Token, error) {
	var t Token
	if len(text) > MaxToken {
		return t, fmt.Errorf("the token is longer than %d characters: is it something else?", MaxToken)
	}
	var sym []byte
	for _, r := range text {
		switch {
		case r == '-' || r == ' ' || r == '\t' || r == '\n' || r == '\r':
			continue
		case r >= 'a' && r <= 'z':
			r -= 'a' - 'A'
		}
		switch r {
		case 'I', 'L':
			r = '1'
		case 'O':
			r = '0'
		}
		i := strings.IndexRune(alphabet, r)
		if i < 0 {
			return t, fmt.Errorf("the token has %q at %s: a token has digits and letters, and no U", r, where(len(sym)))
		}
		sym = append(sym, byte(i))
	}
	if len(sym) != tokenSymbols {
		return t, lengthError(text, len(sym))
	}
	var data []byte
	for g := range tokenGroups {
		group := sym[g*groupSize : (g+1)*groupSize]
		switch at, was, err := inspect(g, group); {
		case err != nil:
			return t, fmt.Errorf("group %d of the token, %s, is mistyped in more than one place (or groups are out of order): look at it again", g+1, letters(group))
		case at >= 0:
			return t, fmt.Errorf("the token is mistyped at %s (%s): %c is probably meant to be %c", where(g*groupSize+at), letters(group), alphabet[group[at]], alphabet[was])
		}
		data = append(data, group[:groupData]...)
	}
	if v := data[0] >> 1; v != tokenVersion {
		return t, fmt.Errorf("the token has version %d, and this relevo understands %d: use the same version of relevo on both hosts", v, tokenVersion)
	}
	bits := make([]byte, 0, 2*tokenHalf)
	acc, n := uint(data[0]&1), 1
	for _, s := range data[1:] {
		if acc, n = acc<<5|uint(s), n+5; n >= 8 {
			n -= 8
			bits = append(bits, byte(acc>>n))
		}
	}
	copy(t.cluster[:], bits)
	copy(t.secret[:], bits[tokenHalf:])
	return t, nil
}

func where(symbol int) string {
	return fmt.Sprintf("character %d of group %d", symbol%groupSize+1, symbol/groupSize+1)
}

func letters(group []byte) string {
	var b strings.Builder
	for _, s := range group {
		b.WriteByte(alphabet[s])
	}
	return b.String()
}

// lengthError names the group that is too short or too long, where hyphens or blanks
// show it.
func lengthError(text string, n int) error {
	for i, g := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("- \t\r\n", r) }) {
		if len(g) != groupSize && n > groupSize {
			return fmt.Errorf("group %d of the token, %.20s, has %d characters, and %d are needed", i+1, g, len(g), groupSize)
		}
	}
	return fmt.Errorf("the token has %d characters, and %d are needed: was it copied whole?", n, tokenSymbols)
}

// The code of a group: over GF(32), with x⁵+x²+1. The symbols' sum is the number of the
// group, and their sum weighted with powers of a generator is 0. So one wrong symbol is
// found, and what it should be; two are always noticed, more nearly always.
var (
	gfExp [62]byte
	gfLog [32]byte
)

func init() {
	x := byte(1)
	for i := range 31 {
		gfExp[i], gfExp[i+31], gfLog[x] = x, x, byte(i)
		if x <<= 1; x >= 32 {
			x ^= 0b100101
		}
	}
}

func gfMul(a, b byte) byte {
	if a == 0 || b == 0 {
		return 0
	}
	return gfExp[int(gfLog[a])+int(gfLog[b])]
}

func gfDiv(a, b byte) byte {
	if a == 0 {
		return 0
	}
	return gfExp[(int(gfLog[a])-int(gfLog[b])+31)%31]
}

func sums(group int, sym []byte) (s0, s1 byte) {
	s0 = byte(group + 1)
	for i, s := range sym {
		s0 ^= s
		s1 ^= gfMul(s, gfExp[i])
	}
	return s0, s1
}

// protect adds the two check symbols.
func protect(group int, data []byte) []byte {
	a, b := sums(group, data)
	last := gfDiv(b^gfMul(a, gfExp[groupData]), gfExp[groupData]^gfExp[groupData+1])
	return append(append([]byte{}, data...), a^last, last)
}

var errManySlips = errors.New("more than one symbol is wrong")

// inspect finds a wrong symbol and what it should be; at = -1: none is wrong.
func inspect(group int, sym []byte) (at int, was byte, err error) {
	s0, s1 := sums(group, sym)
	switch {
	case s0 == 0 && s1 == 0:
		return -1, 0, nil
	case s0 == 0 || s1 == 0:
		return 0, 0, errManySlips
	}
	if at = int(gfLog[gfDiv(s1, s0)]); at >= len(sym) {
		return 0, 0, errManySlips
	}
	return at, sym[at] ^ s0, nil
}
