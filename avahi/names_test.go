package avahi

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/dns"
)

func TestCutBytes(t *testing.T) {
	family := "👨‍👩‍👧" // three emoji and two joiners, 18 bytes
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{
		{"short", 63, "short"},
		{"abcdef", 3, "abc"},
		{"ábc", 1, ""},
		{"ábc", 2, "á"},
		{"a b", 2, "a"},
		{"xe\u0301y", 2, "x"},                // an accent of its own belongs to its letter
		{"x" + family, 18, "x"},              // half a family is no family
		{"x" + family, 19, "x" + family},     // all of it
		{"x👍🏽", 5, "x"},                      // a thumb without its colour
		{"a\u0301\u0301\u0301\u0301", 2, ""}, // nothing whole is left
	} {
		if got := cutBytes(c.in, c.n); got != c.want {
			t.Errorf("%q cut to %d: %q, want %q", c.in, c.n, got, c.want)
		}
	}
}

func TestAlternative(t *testing.T) {
	long := strings.Repeat("☎", 21)
	for in, want := range map[string]string{
		"Web": "Web #2", "Web #2": "Web #3", "Web #9": "Web #10", "Web #x": "Web #x #2", "Web #1": "Web #1 #2", " #2": " #2 #2",
		"Web #02": "Web #02 #2", "Web #99999999999999": "Web #99999999999999 #2", long: strings.Repeat("☎", 20) + " #2",
	} {
		if got := alternative(in); got != want {
			t.Errorf("after %q: %q, want %q", in, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"Cámara ☎ 👨‍👩‍👧 ❤️": "Cámara ☎ 👨‍👩‍👧 ❤️",
		"a\x1b[2Jb\n":       `a\x1b[2Jb\n`,
		"\xff\xfe":          `\xff\xfe`,
		"abc\u202egnp":      `abc\u202egnp`, // turns the direction of writing
		"a\u200bb\u2028c":   `a\u200bb\u2028c`,
		"nul\x00":           `nul\x00`,
	} {
		if got := Printable(in, 100); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := Printable("a\nbcd", 3); got != `a\n` {
		t.Errorf("cut to 3: %q", got)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`C\195\161mara`: "Cámara", `a\.b`: "a.b", `a\032b`: "a b", `\`: `\`, `a\99`: "a99", `\999`: "999", `a\\b`: `a\b`} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestOwnLabel(t *testing.T) {
	for in, want := range map[string]string{"pi1": "pi1-relevo", "pi1.lan": "pi1-relevo", "a_b c": "a-b-c-relevo", "...": "relevo", "é": "relevo",
		strings.Repeat("x", 70): strings.Repeat("x", 56) + "-relevo"} {
		if got := ownLabel(in); got != want || checkHost(got) != nil {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Whatever the name, it is one label on the wire, and comes back as it was. This is
// what keeps every packet whole.
func FuzzName(f *testing.F) {
	for _, s := range []string{"Web", "Cámara 1 ☎", "a.b/c", `\`, "x.", ".x", "'\"@;()", "\x00\n", "\xff", strings.Repeat("👨‍👩‍👧", 12), "a\u202eb", `\195\161`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if p := Printable(name, 80); len(p) > 80 || !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
			t.Errorf("%q is shown as %q", name, p)
		}
		s, _, err := Service{Name: name, Type: "_http._tcp", Port: 1}.Fit()
		if err != nil {
			return
		}
		for range 3 {
			if checkName(s.Name) != nil {
				t.Fatalf("%q became %q", name, s.Name)
			}
			wire := presentation(s.Name)
			if unescape(wire) != s.Name {
				t.Fatalf("%q is written %q and read %q", s.Name, wire, unescape(wire))
			}
			full := wire + "._http._tcp.local."
			buf := make([]byte, 300)
			if _, err := dns.PackDomainName(full, buf, 0, nil, false); err != nil {
				t.Fatalf("%q: %v", full, err)
			}
			if back, _, err := dns.UnpackDomainName(buf, 0); err != nil || back != full || dns.CountLabel(back) != 4 {
				t.Fatalf("%q comes back as %q, %v", full, back, err)
			}
			s.Name = alternative(s.Name)
		}
	})
}
