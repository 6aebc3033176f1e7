package agent

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/cloudy"
	"relevo.dev/relevo/agent/config"
)

// TestWholeCloudy: two of three agents take part in Cloudy's ring, which has a bridge of
// nobody's besides; what was marked is there once, also of the member without a bridge,
// and what the community offers is in everybody's list once.
func TestWholeCloudy(t *testing.T) {
	whole(t, "n1 n2 v3", func(t *testing.T, w *world) {
		for _, h := range w.hosts[:2] {
			h.cfg.Cloudy = config.Cloudy{Bridge: true, Join: []string{"10.0.9.9:5000"}, Port: 5000, MicroCloud: "ours", Publish: config.PublishMarked}
		}
		far, err := cloudy.NewBridge(cloudy.BridgeConfig{Node: "far", BindAddr: "10.0.9.9", Transport: w.netOf(w.hosts[0]).Gossip, Log: w.hosts[0].logger(),
			Here: cloudy.Here{Node: "far", MicroCloud: "theirs", Addr: netip.MustParseAddr("10.0.9.9")}})
		if err != nil {
			t.Fatal(err)
		}
		far.Publish([]cloudy.Entry{{Name: "Radio", Type: "_radio._tcp", Port: 8000, TXT: []string{"a=b"}}})
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		go func() { defer close(done); far.Run(ctx) }()
		defer func() { cancel(); <-done }()
		w.hosts[0].adopt(100)
		w.start()
		for i, h := range w.hosts {
			h.agent.catalog.Set(catalog.File, []catalog.Entry{
				{ID: "a", Name: "Shop of " + h.name, Type: "_http._tcp", Port: 80 + i, Public: true},
				{ID: "b", Name: "Secret of " + h.name, Type: "_http._tcp", Port: 90 + i},
				{ID: "c", Name: "Broken of " + h.name, Type: "_http._tcp", Port: 99, Public: true, Health: catalog.Failing},
			}, nil)
		}
		ring := func() (names []string) {
			for _, e := range far.Entries() {
				names = append(names, e.Name+"@"+e.Addrs[0].String()+"/"+e.MicroCloud)
			}
			return names
		}
		want := "Shop_of_n1@10.0.0.1/ours Shop_of_v3@10.0.0.3/ours Shop_of_n2@10.0.0.2/ours"
		defer func() { t.Logf("the ring has %s; the far bridge is %+v", strings.Join(ring(), " "), far.Status()) }()
		w.until(2*time.Minute, "the ring has what was marked, once", func() bool { return strings.Join(ring(), " ") == want })
		w.until(2*time.Minute, "everybody lists the radio, once", func() bool {
			for _, h := range w.hosts {
				n := 0
				for _, e := range h.agent.catalog.All() {
					if e.Origin == catalog.Cloudy {
						n++
						if e.Name != "Radio" || e.MicroCloud != "theirs" || e.Port != 8000 {
							return false
						}
					}
				}
				if n != 1 {
					return false
				}
			}
			return true
		})
		// Settled, nothing is written any more.
		time.Sleep(time.Minute)
		if got := strings.Join(ring(), " "); got != want {
			t.Errorf("later the ring has %s", got)
		}
		// Who spoke for v3 is gone: the other bridge does.
		w.host("n1").crash()
		w.until(3*time.Minute, "n2 speaks for v3", func() bool { return strings.Join(ring(), " ") == "Shop_of_n2@10.0.0.2/ours Shop_of_v3@10.0.0.3/ours" })
		if b, err := json.Marshal(far.Status().Unreadable); err != nil || string(b) != "null" {
			t.Errorf("not readable: %s %v", b, err)
		}
	})
}
