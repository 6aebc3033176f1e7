package member

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPeersFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers")
	text := "10.0.0.1:7946 a\ngarbage\n\x00\x01\n10.0.0.1:7946 a\n[fd00::1]:1 b\n10.0.0.2:0 c\n10.0.0.2:99999 c\n1.2.3.4:5 d e\n10.0.0.9:7946 a"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := readPeers(path)
	if err != nil || lines(p) != "[fd00::1]:1 b\n10.0.0.9:7946 a\n" || p.dirty {
		t.Errorf("%+v, %v", p, err)
	}
	p.add(netip.MustParseAddrPort("[::ffff:10.0.0.9]:7946"), "a") // the same
	if p.dirty {
		t.Error("nothing changed, and it would be written")
	}
	p.add(netip.MustParseAddrPort("10.0.0.9:7946"), "e") // took a's address
	if err := p.save(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "[fd00::1]:1 b\n10.0.0.9:7946 e\n" {
		t.Errorf("%q", b)
	}
	for i := range 2 * maxPeers {
		p.add(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 7946), fmt.Sprint("n", i))
	}
	if len(p.peers) != maxPeers {
		t.Errorf("%d peers are kept", len(p.peers))
	}
	p.path = filepath.Join(path, "x")
	if err := p.save(); err == nil || !p.dirty {
		t.Errorf("a failed write counts as done: %v", err)
	}
}

func lines(p *peersFile) string {
	var out strings.Builder
	for _, k := range p.peers {
		fmt.Fprintf(&out, "%s %s\n", k.addr, k.node)
	}
	return out.String()
}

func FuzzPeersFile(f *testing.F) {
	f.Add([]byte("10.0.0.1:7946 a\n[fd00::1]:1 b\n"))
	f.Add([]byte("10.0.0.1:7946 a\r\n\x00 \xff\n:1 c\n[fe80::1%eth0]:7946 d\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := &peersFile{}
		p.parse(text)
		q := &peersFile{}
		q.parse([]byte(lines(p)))
		if lines(p) != lines(q) || len(p.peers) > maxPeers {
			t.Errorf("%v became %v", p.peers, q.peers)
		}
	})
}

func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := newLogger(slog.New(slog.NewTextHandler(&out, nil)))
		for i := range 10 {
			log.Printf("[ERR] memberlist: no answer from 10.0.0.%d\n", i)
			log.Printf("[WARN] serf: slow")
			log.Printf("[DEBUG] serf: chatter %d", i)
			log.Printf("no level")
			log.Printf("")
			log.Printf("[")
		}
		time.Sleep(repeatAfter)
		log.Printf("[ERR] memberlist: no answer from 10.0.0.77")
		got := out.String()
		if strings.Count(got, "level=WARN msg=\"memberlist: no answer") != 2 || strings.Count(got, "level=INFO msg=\"serf: slow") != 1 || strings.Count(got, "\n") != 3 {
			t.Errorf("%s", got)
		}
	})
}
