package catalog

import (
	"strings"
	"testing"
)

// Nobody speaks for another, and nothing of a hostile list gets further.
func TestHostile(t *testing.T) {
	got, err := decodeEntries([]byte(`[{"id":"a","name":"x\u001b[2J","type":"_http._tcp","node":"n9","port":80,"origin":"file","health":"splendid","txt":["a=\u202eb"],"since":"0001-01-01T00:00:00Z","addrs":["fe80::1%eth0","0.0.0.0"]},
		{"id":"b","name":"y","type":"_http._tcp","port":80,"origin":"root"},{"name":"no id"},{}]`), "n2")
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v %v", got, err)
	}
	if e := got[0]; e.Node != "n2" || e.Owner != "n2" || e.Health != Unchecked || strings.ContainsAny(e.Name+e.TXT[0], "\x1b\u202e") || e.Addrs[0].Zone() != "" {
		t.Errorf("%+v", e)
	}
	for _, bad := range []string{"", "{}", "null", `[{"port":"80"}]`, `[1]`, `[{"id":"a"}`, "[" + strings.Repeat(" ", maxList+5) + "]"} {
		if got, err := decodeEntries([]byte(bad), "n2"); err == nil && bad != `[{"id":"a"}` {
			t.Errorf("%.20q is read: %v", bad, got)
		}
	}
	many := "[" + strings.Repeat(`{"id":"a","name":"x","type":"t","port":1,"origin":"file"},`, 3000)
	many = many[:len(many)-1] + "]"
	if got, err := decodeEntries([]byte(many), "n2"); err != nil || len(got) != maxEntries {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

func FuzzDecodeEntries(f *testing.F) {
	f.Add([]byte(`[{"id":"a","name":"x","type":"_http._tcp","port":80,"origin":"file","health":"ok","txt":["a=b"],"since":"2026-11-25T00:00:00Z","addrs":["10.0.0.1"]}]`))
	f.Add([]byte(`[{"since":"9999-12-31T23:59:59-23:59","id":"a","name":"x","type":"t","origin":"cloudy"}]`))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeEntries(b, "n1")
		if err != nil {
			return
		}
		// What was read can be sent on, and is the same again.
		var l list
		l.encode(got, nil)
		again, err := decodeEntries(l.text, "n1")
		if err != nil || len(again) != len(got) {
			t.Fatalf("%d entries, then %d: %v", len(got), len(again), err)
		}
	})
}

func FuzzTag(f *testing.F) {
	f.Add("AAAA.1.AAAAAAAAAAA")
	f.Add("..")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseTag(s)
		if err != nil {
			return
		}
		if again, err := parseTag(h.tag()); err != nil || again != h || len(h.tag()) > 32 {
			t.Fatalf("%+v is written as %q: %+v %v", h, h.tag(), again, err)
		}
	})
}
