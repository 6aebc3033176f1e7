package member

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/serf/serf"
)

// Serf lets whoever gossips ask all members which keys they have, and change them. A thief
// of the old key would be told the new one while it is brought in because of the theft.
func TestKeysAreNotForGossip(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		stolen, fresh := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
		a, b := l.start("a", 1), l.start("b", 2, addr(1))
		l.eventually("they meet", time.Minute, allSee(a, b))
		for _, p := range []*host{a, b} {
			if err := p.SetKeys([][]byte{stolen, fresh}); err != nil { // the first step of a change
				t.Fatal(err)
			}
		}

		thief := l.serf("thief", 9, stolen)
		if _, err := thief.Join([]string{addr(1)}, true); err != nil {
			t.Fatal(err)
		}
		keys := thief.KeyManager()
		r, err := keys.ListKeys()
		if len(r.Keys) > 1 || r.NumResp > 1 { // its own
			t.Errorf("the thief of one key is told of %d keys by %d members (%v)", len(r.Keys), r.NumResp, err)
		}
		own := "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="
		for _, order := range []func() (*serf.KeyResponse, error){
			func() (*serf.KeyResponse, error) { return keys.InstallKey(own) },
			func() (*serf.KeyResponse, error) {
				return keys.RemoveKey("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=")
			},
			func() (*serf.KeyResponse, error) { return keys.UseKey(own) },
		} {
			if r, _ := order(); r.NumResp > 1 {
				t.Errorf("%d members obey", r.NumResp-1)
			}
		}
		for _, p := range []*host{a, b} {
			if k := p.ring.GetKeys(); len(k) != 2 || !bytes.Equal(k[0], stolen) || !slices.ContainsFunc(k, func(k []byte) bool { return bytes.Equal(k, fresh) }) {
				t.Errorf("the keys of a member are now %x", k)
			}
		}
		// What else Serf's users may send is nothing to us, and nothing breaks.
		if err := thief.UserEvent("deploy", make([]byte, 400), false); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"_serf_ping", "_serf_conflict", "_serf_", "x"} {
			if _, err := thief.Query(name, []byte("a"), nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		time.Sleep(10 * time.Second)
		l.eventually("they still see each other", time.Minute, allSee(a, b))
		if err := thief.Shutdown(); err != nil {
			t.Error(err)
		}
		stopAll(a, b)
	})
}

// serf is somebody with the key and a Serf of his own.
func (l *lab) serf(node string, n int, key []byte) *serf.Serf {
	l.t.Helper()
	p, err := New(Config{Node: node, BindAddr: ip(n), Port: 7946, Keys: [][]byte{key}, Log: l.log})
	if err != nil {
		l.t.Fatal(err)
	}
	c, err := p.settings(ip(n), make(chan serf.Event, 1024))
	if err != nil {
		l.t.Fatal(err)
	}
	c.Merge = nil
	if c.MemberlistConfig.Transport, err = l.nw.NewGossip(ip(n), 7946); err != nil {
		l.t.Fatal(err)
	}
	s, err := serf.Create(c)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}
