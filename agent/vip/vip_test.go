package vip

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestFrames(t *testing.T) {
	hw := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	ip := netip.MustParseAddr("10.77.0.100")
	for _, f := range []frame{probe(hw, ip), announcement(hw, ip, false), announcement(hw, ip, true)} {
		g, err := decode(f.encode())
		if err != nil || g.op != f.op || g.senderIP != f.senderIP || g.targetIP != f.targetIP || g.senderHW.String() != f.senderHW.String() {
			t.Errorf("%+v, %v", g, err)
		}
	}
	if p := probe(hw, ip); p.senderIP != netip.IPv4Unspecified() {
		t.Error("a probe claims the address")
	}
	if _, err := New(Config{Prefix: netip.MustParsePrefix("fd00::1/64")}); err == nil {
		t.Error("IPv6 was accepted")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(probe(net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.1")).encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, err := decode(b); err == nil && (!fr.senderIP.Is4() || len(fr.senderHW) != 6) {
			t.Errorf("%+v", fr)
		}
	})
}

// hosts makes two network namespaces with a cable between them, and returns a
// function that runs something in one of them.
func hosts(t *testing.T) [2]func(func()) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: network namespaces need root")
	}
	var run [2]func(func())
	for i := range run {
		work := make(chan func())
		ready := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			ready <- unix.Unshare(unix.CLONE_NEWNET)
			for f := range work {
				f()
			}
		}()
		if err := <-ready; err != nil {
			t.Skipf("SKIPPED: no network namespaces here: %v", err)
		}
		t.Cleanup(func() { close(work) })
		run[i] = func(f func()) {
			done := make(chan struct{})
			work <- func() { defer close(done); f() }
			<-done
		}
	}
	var ns int
	must := func(err error) {
		if err != nil {
			t.Error(err)
			runtime.Goexit()
		}
	}
	run[1](func() {
		var err error
		ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(err)
	})
	defer unix.Close(ns)
	run[0](func() {
		must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth1"}))
		peer, err := netlink.LinkByName("eth1")
		must(err)
		must(netlink.LinkSetNsFd(peer, ns))
	})
	for i, name := range []string{"eth0", "eth1"} {
		run[i](func() {
			l, err := netlink.LinkByName(name)
			must(err)
			must(netlink.LinkSetUp(l))
			must(netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 0, byte(i+1)), Mask: net.CIDRMask(24, 32)}}))
		})
	}
	return run
}

func TestTakeOver(t *testing.T) {
	run := hosts(t)
	a, err := New(Config{Prefix: netip.MustParsePrefix("10.77.0.100/24"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	neighbour := func() string { // what host 2 believes
		var mac string
		run[1](func() {
			ns, _ := netlink.NeighList(0, netlink.FAMILY_V4)
			for _, n := range ns {
				if n.IP.Equal(net.IPv4(10, 77, 0, 100)) {
					mac = n.HardwareAddr.String()
				}
			}
		})
		return mac
	}
	run[0](func() {
		for range 2 { // claiming twice is claiming once
			if err := a.Claim(ctx, 1); err != nil {
				t.Error(err)
			}
		}
		if held, err := a.Held(); !held || err != nil {
			t.Errorf("held: %v, %v", held, err)
		}
	})
	run[1](func() { // host 2 learns the address by talking to it
		c, err := net.Dial("udp", "10.77.0.100:9")
		if err == nil {
			c.Write([]byte("x"))
			c.Close()
		}
		l, _ := netlink.LinkByName("eth1")
		owner, err := a.Probe(ctx, l)
		if owner == nil || err != nil {
			t.Errorf("host 1 has the address and does not answer: %v, %v", owner, err)
		}
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if err := a.Claim(short, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("took at once what host 1 has: %v", err)
		}
		// The lease has decided: who still answers after a while does not keep it.
		if err := a.Claim(ctx, 2); err != nil {
			t.Errorf("left the address to host 1: %v", err)
		}
		if owner, err := a.Defend(ctx); owner == nil || err != nil {
			t.Errorf("defended against %v, %v", owner, err)
		}
		if err := a.Release(ctx); err != nil {
			t.Error(err)
		}
	})
	before := neighbour()
	run[0](func() {
		for range 2 {
			if err := a.Release(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	run[1](func() {
		if err := a.Claim(ctx, 2); err != nil {
			t.Error(err)
		}
		if owner, err := a.Defend(ctx); owner != nil || err != nil {
			t.Errorf("host 1 gave it up, and %v is defended against, %v", owner, err)
		}
		if err := a.Release(ctx); err != nil {
			t.Error(err)
		}
	})
	run[0](func() { // and back: the announcement corrects host 2's table at once
		if err := a.Claim(ctx, 3); err != nil {
			t.Error(err)
		}
	})
	if after := neighbour(); after == "" && before != "" {
		t.Errorf("host 2 knew %s and now nothing", before)
	}
	run[0](func() {
		bad, _ := New(Config{Prefix: netip.MustParsePrefix("192.168.9.9/24"), Log: a.cfg.Log})
		if err := bad.Claim(ctx, 1); err == nil {
			t.Error("an address of no network was taken")
		}
	})
}
