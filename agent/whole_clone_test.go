package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// copyCard makes another board with a copy of a host's SD card: same name, same keys, same
// state, another address.
func (w *world) copyCard(h *testHost, ip string) *testHost {
	dir := h.dir + "-copy"
	if err := os.CopyFS(dir, os.DirFS(h.dir)); err != nil {
		w.t.Fatal(err)
	}
	for _, f := range []string{"pki/node.key", "pki/ca.key", "gossip.key"} {
		if err := os.Chmod(filepath.Join(dir, f), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	h.mu.Lock()
	c := &testHost{w: w, name: h.name, ip: ip, dir: dir, own: h.own, copy: h.copy}
	h.mu.Unlock()
	cfg := *h.cfg
	cfg.DataDir, cfg.Peer.PKIDir, cfg.Gossip.KeyFile = dir, filepath.Join(dir, "pki"), filepath.Join(dir, "gossip.key")
	cfg.Advertise = netip.MustParseAddr(ip)
	c.cfg = &cfg
	w.hosts = append(w.hosts, c)
	w.tell("a copy of the card of %s is put into another board, %s", h.name, ip)
	return c
}

// TestWholeCopiedCard: the master's SD card was copied, and the copy boots in another
// board while the master is at work. The others know that the name is taken: the copy
// waits, and takes over the name when the master's board is surely gone.
func TestWholeCopiedCard(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		c := w.copyCard(w.host("n1"), "10.0.0.9")
		booted := make(chan struct{})
		go func() { c.boot(); close(booted) }()
		time.Sleep(5 * time.Minute)
		select {
		case <-booted:
			t.Fatal("the copy takes part while the other n1 is a member")
		default:
		}
		w.host("n1").crash()
		m := w.follows("n1", 2)
		w.until(time.Minute, "the copy takes part", func() bool {
			select {
			case <-booted:
				return true
			default:
				return false
			}
		})
		w.until(time.Minute, "the copy is a standby with the new data", func() bool { return c.copied() == m.rows().last() })
	})
}

// TestWholeTwins: the same, and the copy does not know where anybody was, so it is a
// member before it is found out. It must not run the control plane, nor end the master's
// term when it is stopped; and it ends by itself.
func TestWholeTwins(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		c := w.copyCard(w.host("n1"), "10.0.0.9")
		if err := os.Remove(filepath.Join(c.dir, "peers")); err != nil {
			t.Fatal(err)
		}
		c.boot()
		select {
		case err := <-c.done:
			if err == nil || !strings.Contains(err.Error(), "another machine called n1") {
				t.Errorf("the copy ended with %v", err)
			}
			c.done, c.agent = nil, nil
		case <-time.After(10 * time.Minute):
			t.Error("the copy goes on and on")
		}
		if c.rows().Term != 0 || w.two > 0 {
			t.Errorf("the copy was promoted: %+v", c.rows())
		}
		time.Sleep(time.Minute)
		if s := w.host("n2").agent.quorum.State(); s.Holder != "n1" || s.Released || s.Term != 1 {
			t.Errorf("the state is %+v", s)
		}
		w.ready("n1", 1)
	})
}
