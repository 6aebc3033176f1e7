package peer

import (
	"bytes"
	"strings"
	"testing"
)

func testToken(t testing.TB) (Token, *Identity) {
	t.Helper()
	_, id := found(t, "n1")
	return NewToken(id), id
}

func TestTokenText(t *testing.T) {
	tok, id := testToken(t)
	text := tok.String()
	if len(text) != tokenSymbols+tokenGroups-1 || !LooksLikeToken(text) || len(tok.ID()) != 8 {
		t.Errorf("%q, %q", text, tok.ID())
	}
	if !strings.HasPrefix(id.ClusterID(), tok.ClusterPrefix()) || len(tok.ClusterPrefix()) != 22 {
		t.Errorf("prefix %s of %s", tok.ClusterPrefix(), id.ClusterID())
	}
	if strings.Contains(text, tok.ID()) {
		t.Error("the id is a piece of the token")
	}
	sloppy := strings.NewReplacer("1", "l", "0", "o", "-", " ").Replace(strings.ToLower(text))
	for _, s := range []string{text, sloppy, strings.ReplaceAll(text, "-", ""), "\n " + text + "\r\n"} {
		if got, err := ParseToken(s); err != nil || got != tok {
			t.Errorf("%q: %v", s, err)
		}
	}
	if !bytes.Equal(tok.Public(), tok.Public()) || bytes.Equal(tok.Public(), NewToken(id).Public()) {
		t.Error("the key does not follow from the secret")
	}
}

// TestTokenSlips: every single wrong character is named, with what it should be.
func TestTokenSlips(t *testing.T) {
	tok, _ := testToken(t)
	text := tok.String()
	for i, c := range []byte(text) {
		if c == '-' {
			continue
		}
		for _, wrong := range []byte(alphabet) {
			if wrong == c {
				continue
			}
			_, err := ParseToken(text[:i] + string(wrong) + text[i+1:])
			symbol := i - i/(groupSize+1)
			wants(t, err, where(symbol), string(wrong)+" is probably meant to be "+string(c))
		}
	}
	groups := strings.Split(text, "-")
	swapped := strings.Join([]string{groups[1], groups[0], groups[2], groups[3], groups[4], groups[5]}, "-")
	if got, err := ParseToken(swapped); err == nil {
		t.Errorf("swapped groups pass: %v", got == tok)
	}
	for in, want := range map[string]string{
		"":                              "0 characters, and 48",
		text[:20]:                       "group 3",
		text + "A":                      "group 6",
		groups[0]:                       "8 characters, and 48",
		"?" + text[1:]:                  `'?' at character 1 of group 1`,
		text[:9] + "U" + text[10:]:      `'U' at character 1 of group 2`,
		strings.Repeat("A", MaxToken+1): "longer than",
	} {
		_, err := ParseToken(in)
		wants(t, err, want)
	}
	for _, in := range []string{"n2.invitation", "/tmp/x", "-", "invitation", ""} {
		if LooksLikeToken(in) {
			t.Errorf("%q looks like a token", in)
		}
	}
}

func FuzzToken(f *testing.F) {
	tok, _ := testToken(f)
	f.Add(tok.String())
	f.Add(strings.ToLower(tok.String()))
	f.Add(tok.String()[1:])
	f.Add("\x00é-")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseToken(text)
		if err != nil {
			if len(err.Error()) > 400 {
				t.Errorf("a long error: %q", err)
			}
			return
		}
		again, err := ParseToken(got.String())
		if err != nil || again != got {
			t.Errorf("%q became %q: %v", text, got, err)
		}
	})
}
