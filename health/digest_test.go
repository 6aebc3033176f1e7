package health

import (
	"slices"
	"strings"
	"testing"
)

func TestDigest(t *testing.T) {
	all := []Condition{}
	for _, typ := range Types() {
		all = append(all, Condition{Type: typ, Status: Yes})
	}
	for _, c := range []struct {
		in   []Condition
		text string
	}{
		{nil, "1"},
		{[]Condition{{Type: Hot, Status: No}, {Type: DiskFull}}, "1"},
		{[]Condition{{Type: Hot, Status: Yes}, {Type: DiskFull, Status: Yes}, {Type: "Strange", Status: Yes}, {Type: Hot, Status: Yes}}, "1dfht"},
		{all, "1rofgdedfifdscifecwuvthhtmpcscjlflewsuf"},
	} {
		text := Digest(c.in)
		if text != c.text {
			t.Errorf("%q, want %q", text, c.text)
		}
		var want []Type
		for _, typ := range Types() {
			if slices.ContainsFunc(c.in, func(x Condition) bool { return x.Type == typ && x.Status == Yes }) {
				want = append(want, typ)
			}
		}
		if g, err := ParseDigest(text); err != nil || !slices.Equal(g.Types, want) || g.Strange != 0 {
			t.Errorf("%q: %+v, %v", text, g, err)
		}
	}
	if g, err := ParseDigest("1htzzdfzzht"); err != nil || !slices.Equal(g.Types, []Type{DiskFull, Hot}) || g.Strange != 2 {
		t.Errorf("%+v, %v", g, err)
	}
	for _, bad := range []string{"", "2df", "1d", "1DF", "1\x1b[", "1d\xff", "1" + strings.Repeat("ht", 50)} {
		if g, err := ParseDigest(bad); err == nil || g.Types != nil {
			t.Errorf("%q was taken: %+v", bad, g)
		}
	}
}

func FuzzDigest(f *testing.F) {
	for _, s := range []string{"", "1", "1rodf", "1zz", "2ro", "1r", "1\x00\x00", strings.Repeat("1", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := ParseDigest(s)
		if err != nil {
			if g.Types != nil || g.Strange != 0 {
				t.Errorf("an error, and yet %+v", g)
			}
			return
		}
		if len(g.Types) > len(table) || g.Strange > MaxDigest {
			t.Errorf("%d types, %d strange", len(g.Types), g.Strange)
		}
		var cs []Condition
		for _, typ := range g.Types {
			cs = append(cs, Condition{Type: typ, Status: Yes})
		}
		again, err := ParseDigest(Digest(cs))
		if err != nil || !slices.Equal(again.Types, g.Types) {
			t.Errorf("%q came back as %+v, %v", s, again, err)
		}
	})
}
