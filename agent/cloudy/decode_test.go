package cloudy

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"relevo.dev/relevo/agent/cloudy/bz2"
)

// tagOf is the tag of a plain text.
func tagOf(plain string) string {
	return base64.StdEncoding.EncodeToString(bz2.Compress([]byte(plain)))
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// TestDecodeWritten: tags made by `bzip2 | base64 -w 0`, as Cloudy's script makes
// them.
func TestDecodeWritten(t *testing.T) {
	for name, c := range map[string]struct {
		tag  string
		want []Entry
	}{
		"no address": {"QlpoOTFBWSZTWUS+h70AABtfgAAQEAcTEAABTQq/p98qIABUY8p6EaGgBkaNMm1BpRpp6mhoAMag0BawkZBDC0fHhDiYsIeyS0kU+FV+IWAM3QVvp89XS3CAyDdnVUfoJil6n2US8KdYmEAPSZl+LuSKcKEgiX0Peg==",
			[]Entry{{Name: "TincVPN_System", Type: "_tincvpn._tcp", Host: "board-2.guifi.local", Port: 665, Origin: OriginCloudy}}},
		"port in words": {"QlpoOTFBWSZTWRaFF0MAAEdfgAAQEAd8MjoADAq/594qMACs2Gk0hoADQDRoAAaieoxGgDQAABkEoST0gMEDZGiNBpplxsWIGhKYg/sostBu3kz64DxuqIqAhAJCB6DMMlkBP/AsCJWVDmIjQS03EByjPGIjhE33XypDAH4goY2QkvsuwJxTNGPxbM5K51mHpzNo8zPjQ1Jy+CgkSk4LMqFBduHwRAFBbwI5vaAwMK3tyR+LuSKcKEgLQouhgA==",
			[]Entry{
				{Name: "Syncthing_instance_running", Type: "_syncthing._tcp", Host: "board-1.guifi.local", MicroCloud: "demo", Addrs: addrs("10.139.40.21"), Port: 22000, TXT: []string{"node_id=ABC"}, Origin: OriginCloudy},
				{Name: "TEST", Type: "_TEST._tcp", Host: "board-1.guifi.local", Addrs: addrs("10.139.40.21"), TXT: []string{"TEST"}, Origin: OriginCloudy}}},
		"last one in apostrophes": {"QlpoOTFBWSZTWZyXV3UAAETfgAAQUId+MgMAmZq/p96KMACtaGoJiag9lQ0AB6nqbFPSAao0yPSaAAAAAAEqk9CYAAA0JgATOLyFM/oQewRtjfKdnDUAlP1OZdIQqWDQZERmbkEgQoRREKOinjZEFhCQCpKViBaxLjiRX4PCRdsWPt4uQhSEUrKTItt7nLfWeiL7CPnIVabrgS1/ApT8mPxdgD0hKeR6ETVPrkCI5wlojRDoF8ulXrYUwhAUYz/gPD9Zzv4u5IpwoSE5Lq7q",
			[]Entry{
				{Name: "OpenVZ_Web_panel", Type: "_owp._tcp", Host: "board-3.guifi.local", Addrs: addrs("10.139.40.23"), Port: 3000, Origin: OriginCloudy},
				{Name: "SERF_instance_running", Type: "_serf._tcp", Host: "board-3.guifi.local", Addrs: addrs("10.139.40.23"), Port: 5000, TXT: []string{"a=1", "b=2"}, Origin: OriginCloudy}}},
		"nothing": {"QlpoOTFBWSZTWUx+eFAAAADCAAAQAAogACGYGYRhdyRThQkEx+eFAA==", nil},
	} {
		for _, tag := range []string{c.tag, strings.TrimRight(c.tag, "="), " " + c.tag[:40] + "\n" + c.tag[40:] + "\n"} {
			got, err := Decode(tag, Limits{})
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		}
	}
}

func TestDecodeHostile(t *testing.T) {
	many := strings.Repeat(`{"s":"http","d":"x"},`, 5000)
	for name, c := range map[string]struct {
		plain  string
		want   string // names, type and port of what is left
		faulty string // part of the error; "" = none
	}{
		"missing keys":    {`[{"s":"http"},{"d":"x"},{"s":"http","d":"y"},{}]`, "y _http._tcp 0", "3 of its services"},
		"name from host":  {`[{"s":"http","m":"pi.guifi.local"}]`, "pi.guifi.local _http._tcp 0", ""},
		"port, number":    {`[{"s":"http","d":"x","p":80}]`, "x _http._tcp 80", ""},
		"port, text":      {`[{"s":"http","d":"x","p":" 80 "}]`, "x _http._tcp 80", ""},
		"port, beyond":    {`[{"s":"http","d":"x","p":65536},{"s":"http","d":"y","p":-1},{"s":"http","d":"z","p":1e3}]`, "x _http._tcp 0, y _http._tcp 0, z _http._tcp 0", ""},
		"odd values":      {`[{"s":["http"],"d":"x"},{"s":"http","d":{"a":1}},{"s":"http","d":"z","p":null,"i":7,"t":true}]`, "z _http._tcp 0", "2 of its services"},
		"numbers as text": {`[{"s":1,"d":2,"p":3}]`, "2 _1._tcp 3", ""},
		"same key twice":  {`[{"s":"http","d":"a","S":"ssh","D":"b","d":"c"}]`, "c _http._tcp 0", ""},
		"not objects":     {`[1,"a",null,[[]],{"s":"http","d":"x"}]`, "x _http._tcp 0", "4 of its services"},
		"no array":        {`{"s":"http","d":"x"}`, "", "no JSON array"},
		"no JSON":         {`hello`, "", "no JSON array"},
		"empty":           {``, "", "no JSON array"},
		"cut off":         {`[{"s":"http","d":"x"},{"s":"http","d":"y"`, "x _http._tcp 0", "after 1 services"},
		"garbage after":   {`[{"s":"http","d":"x"}] [`, "x _http._tcp 0", ""},
		"html":            {`[{"s":"<i>http","d":"<script>alert(1)</script>","m":"<b>"}]`, "scriptalert(1)/script _ihttp._tcp 0", ""},
		"control":         {"[{\"s\":\"ht\\u0000tp\",\"d\":\"a\\u001b[31mb\\u202ec\\u0007\\nd\\ud800\"}]", "a[31mbc d _http._tcp 0", ""},
		"dns type":        {`[{"s":"_http._tcp","d":"x"},{"s":"_dns._udp","d":"y"},{"s":"a b.c/d","d":"z"},{"s":"../..","d":"q"}]`, "x _http._tcp 0, y _dns._tcp 0, z _abcd._tcp 0", "1 of its services"},
		"deep":            {`[{"s":"http","d":"x","q":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `},{"s":"http","d":"y"}]`, "x _http._tcp 0, y _http._tcp 0", ""},
		"deeper":          {`[` + strings.Repeat(`{"d":`, 12000), "", "after 0 services"},
		"long texts":      {`[{"s":"` + strings.Repeat("a", 900) + `","d":"` + strings.Repeat("é", 900) + `"}]`, strings.Repeat("é", 31) + " _" + strings.Repeat("a", 63) + "._tcp 0", ""},
		"thousands":       {"[" + many[:len(many)-1] + "]", strings.TrimSuffix(strings.Repeat("x _http._tcp 0, ", 256), ", "), "more than 256 services"},
	} {
		got, err := Decode(tagOf(c.plain), Limits{Plain: 200 << 10})
		var names []string
		for _, e := range got {
			names = append(names, fmt.Sprint(e.Name, " ", e.Type, " ", e.Port))
		}
		if s := strings.Join(names, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
		if (err == nil) != (c.faulty == "") || err != nil && !strings.Contains(err.Error(), c.faulty) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.faulty)
		}
	}
}

func TestDecodeAddresses(t *testing.T) {
	for in, want := range map[string]string{
		`"10.1.2.3"`: "[10.1.2.3]", `" 10.1.2.3 "`: "[10.1.2.3]", `"::ffff:10.1.2.3"`: "[10.1.2.3]", `"2001:db8::1"`: "[2001:db8::1]",
		`""`: "[]", `"127.0.0.1"`: "[]", `"0.0.0.0"`: "[]", `"224.0.0.251"`: "[]", `"255.255.255.255"`: "[]", `"169.254.1.1"`: "[]",
		`"fe80::1%eth0"`: "[]", `"::1"`: "[]", `"10.1.2"`: "[]", `"10.1.2.3.4"`: "[]", `"evil.example"`: "[]", `167837955`: "[]", `null`: "[]",
	} {
		got, err := Decode(tagOf(`[{"s":"http","d":"x","i":`+in+`}]`), Limits{})
		if err != nil || len(got) != 1 || fmt.Sprint(got[0].Addrs) != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
}

// TestDecodeBomb: four megabytes in 68 characters, and other things that are not
// what they should be. Neither memory nor time follows them.
func TestDecodeBomb(t *testing.T) {
	bomb := "QlpoOTFBWSZTWdff3bkAHqUGAJAAAAgACCAAMMwFKacZQkq2FCSrxdyRThQkNff3bkA="
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Decode(bomb, Limits{})
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "longer than 65536 bytes") {
		t.Errorf("%v", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
		t.Errorf("reading a bomb took %d bytes of memory", n)
	}
	good := tagOf(`[{"s":"http","d":"x"}]`)
	broken := []byte(good)
	broken[30] ^= 1
	for name, tag := range map[string]string{
		"nothing":     "",
		"words":       "not base64 at all!",
		"not bzip2":   base64.StdEncoding.EncodeToString([]byte("[]")),
		"cut off":     good[:len(good)/2],
		"a wrong bit": string(broken),
		"too long":    strings.Repeat("A", 17<<10),
		"level 0":     base64.StdEncoding.EncodeToString([]byte("BZh0 and something")),
	} {
		if got, err := Decode(tag, Limits{}); err == nil || len(got) > 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// A bigger one is read by whoever wants to.
	long := tagOf(`[{"s":"http","d":"` + strings.Repeat("x", 100<<10) + `"}]`)
	if got, err := Decode(long, Limits{Plain: 200 << 10}); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// harmless is what must hold for every entry, whatever was read.
func harmless(t *testing.T, e Entry) {
	t.Helper()
	texts := append([]string{e.Name, e.Type, e.Description, e.Host, e.MicroCloud}, e.TXT...)
	for _, s := range texts {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || strings.ContainsAny(s, "<>\u202e\u2028") || len(s) > maxText {
			t.Errorf("%q is passed on", s)
		}
	}
	if e.Name == "" || len(e.Name) > maxName || e.Port < 0 || e.Port > 65535 || e.Origin != OriginCloudy {
		t.Errorf("%+v is passed on", e)
	}
	for _, a := range e.Addrs {
		if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() {
			t.Errorf("address %s is passed on", a)
		}
	}
}

func FuzzDecodeTag(f *testing.F) {
	f.Add("QlpoOTFBWSZTWdff3bkAHqUGAJAAAAgACCAAMMwFKacZQkq2FCSrxdyRThQkNff3bkA=")
	f.Add(tagOf(`[{"s":"http","d":"x","m":"pi.guifi.local","i":"10.1.2.3","p":"80","e":"home","t":"a=1 b=2"}]`))
	f.Add("QlpoOQ==")
	f.Fuzz(func(t *testing.T, tag string) {
		got, _ := Decode(tag, Limits{Plain: 4 << 10, Entries: 20})
		if len(got) > 20 {
			t.Errorf("%d entries", len(got))
		}
		for _, e := range got {
			harmless(t, e)
		}
	})
}

func FuzzDecodePlain(f *testing.F) {
	f.Add([]byte(`[{"s":"http","d":"x","m":"pi.guifi.local","i":"10.1.2.3","p":80,"e":"home","t":"a=1&b=2 c"}]`))
	f.Add([]byte(`[{'s':'http','d':'x'},{"s":"\u003c\ud800","d":"\u202e<","D":[[[{}]]]},null,`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		got, err := parseAny(plain, 20) // what it is packed in is FuzzDecodeTag's
		if len(got) > 20 {
			t.Errorf("%d entries, %v", len(got), err)
		}
		for _, e := range got {
			harmless(t, e)
		}
		if i := bytes.IndexByte(plain, '['); i < 0 && len(got) > 0 {
			t.Errorf("%v out of %q", got, plain)
		}
	})
}
