package agent

import (
	"slices"
	"testing"

	"relevo.dev/relevo/avahi"
)

// TestRivals: of what strangers announce, only what an init of ours would counts.
func TestRivals(t *testing.T) {
	entry := func(name, typ string, txt ...string) avahi.Entry {
		return avahi.Entry{Name: name, Type: typ, TXT: txt}
	}
	const own = "00000000000000aa"
	got := rivals([]avahi.Entry{
		entry("n1", foundingType, "init="+own, "state=looks"), // this host
		entry("n2", foundingType, "init=00000000000000ab", "state=looks"),
		entry("n3", foundingType, "init=00000000000000ac", "state=founds"),
		entry("n4", relevoType, "init=00000000000000ad"),
		entry("n5", foundingType, "init="),
		entry("n6", foundingType, "init=00000000000000a"),
		entry("n7", foundingType, "init=../../../etc/pas"),
		entry("n8", foundingType),
	}, own)
	want := []Rival{{"n2", "00000000000000ab", false}, {"n3", "00000000000000ac", true}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	var many []avahi.Entry
	for range 1000 {
		many = append(many, entry("x", foundingType, "init=00000000000000ff"))
	}
	if n := len(rivals(many, own)); n != maxNeighbours {
		t.Errorf("%d of them", n)
	}
}
