package avahi

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	ok := Service{Name: "Cámara 1 ☎", Type: "_http._tcp", Port: 80, TXT: []string{"path=/"}}
	if err := ok.Check(); err != nil {
		t.Error(err)
	}
	for what, s := range map[string]Service{
		"no name":      {Type: "_http._tcp", Port: 1},
		"200 bytes":    {Name: strings.Repeat("☎", 67), Type: "_http._tcp", Port: 1},
		"control":      {Name: "a\nb", Type: "_http._tcp", Port: 1},
		"not UTF-8":    {Name: "\xff", Type: "_http._tcp", Port: 1},
		"port 0":       {Name: "a", Type: "_http._tcp"},
		"port 70000":   {Name: "a", Type: "_http._tcp", Port: 70000},
		"type":         {Name: "a", Type: "http", Port: 1},
		"type 2":       {Name: "a", Type: "_a_b._tcp", Port: 1},
		"long type":    {Name: "a", Type: "_" + strings.Repeat("a", 16) + "._tcp", Port: 1},
		"long TXT":     {Name: "a", Type: "_http._tcp", Port: 1, TXT: []string{strings.Repeat("a", 256)}},
		"many TXT":     {Name: "a", Type: "_http._tcp", Port: 1, TXT: []string{strings.Repeat("a", 250), strings.Repeat("a", 250)}},
		"host, no IP":  {Name: "a", Type: "_http._tcp", Port: 1, Host: "x"},
		"TXT, no key":  {Name: "a", Type: "_http._tcp", Port: 1, TXT: []string{"=x"}},
		"IP, no label": {Name: "a", Type: "_http._tcp", Port: 1, Addr: netip.MustParseAddr("10.0.0.1")},
	} {
		if s.Check() == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func TestBoardIsBounded(t *testing.T) {
	b := New(Config{Log: slog.New(slog.DiscardHandler)})
	e := Entry{Name: "x", Type: "_http._tcp", Addr: netip.MustParseAddr("10.0.0.1"), Port: 80, TXT: []string{"a=1", "b\x00c", strings.Repeat("x", 300)}}
	for i := range 2 * maxEntries {
		b.see(e.Type, fmt.Sprint(i), e)
	}
	found := b.Found()
	if len(found) != maxEntries {
		t.Errorf("%d entries are kept", len(found))
	}
	if len(found[0].TXT) != 1 || found[0].Value("A") != "1" {
		t.Errorf("TXT %q", found[0].TXT)
	}
	b.lose(e.Type, "0")
	if len(b.Found()) != maxEntries-1 {
		t.Error("nothing was lost")
	}
	if err := b.Publish([]Service{{Name: "", Type: "x"}, {Name: "ok", Type: "_http._tcp", Port: 1}}); err == nil || len(b.Published()) != 1 {
		t.Errorf("a bad service: %v, %v", err, b.Published())
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`C\195\161mara`: "Cámara", `a\.b`: "a.b", `a\032b`: "a b", `\`: `\`, `a\99`: "a99", `\999`: "999"} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add(`C\195\161mara`, "_http._tcp", "k=v", 80)
	f.Add("\x00", "_x._udp", "=", -1)
	f.Fuzz(func(t *testing.T, name, typ, txt string, port int) {
		e, ok := Entry{Name: unescape(name), Type: typ, Host: name, Port: port, TXT: []string{txt}, Addr: netip.MustParseAddr("10.0.0.1")}.clean()
		if ok && (checkName(e.Name) != nil || !ValidType(e.Type) || e.Port <= 0 || strings.ContainsAny(e.Host, "\n\x00")) {
			t.Errorf("%+v", e)
		}
	})
}
