package agent

import (
	"net/netip"
	"os"
	"path/filepath"
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
// board while the master is at work: it must not run the control plane, nor end the
// master's term when it is stopped.
func TestWholeCopiedCard(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		c := w.copyCard(w.host("n1"), "10.0.0.9")
		c.boot()
		time.Sleep(5 * time.Minute)
		if c.rows().Term != 0 || w.two > 0 {
			t.Errorf("the copy was promoted: %+v", c.rows())
		}
		c.shutdown()
		time.Sleep(time.Minute)
		for _, h := range w.hosts[:3] {
			if s := h.agent.quorum.State(); s.Holder == "n1" && s.Released {
				t.Errorf("%s: the copy gave the master's term back", h.name)
			}
		}
		w.until(time.Minute, "there is a master", func() bool { return w.master() != "" })
	})
}
