// Package vip is the virtual IP: the address at which the API always answers. It
// lives on whichever host is the master; who takes it asks first whether somebody
// else has it, and tells everybody afterwards.
package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Timings of probe and announcement. RFC 5227 probes three times over up to seven
// seconds, before every use of an address. Here the lease has decided already and a
// failover waits: two probes, 200 ms in all, find a host that answers at all.
const (
	probes        = 2
	probeWait     = 100 * time.Millisecond
	announcements = 3
	announceWait  = 150 * time.Millisecond
	// Patience with a host that still answers for the address. The lease has decided
	// that it is ours: an old master whose agent is gone, or whose kernel goes on
	// answering for frozen processes, must not keep the API from its clients.
	patience = 2 * time.Second
)

// Config of an [Address].
type Config struct {
	Prefix    netip.Prefix // IPv4
	Interface string       // "" = the one whose network holds the address
	// Service is where packet sockets are asked for by who may not open them: SocketPath, by
	// an agent, which then has to call Run; "" = nowhere.
	Service string
	Log     *slog.Logger
}

// Address is the virtual IP on this host.
type Address struct {
	cfg       Config
	sockets   *pool
	contested atomic.Bool // somebody else answers for it, too
	owed      atomic.Bool // it is here, and nobody was told
}

// New makes it; nothing is done yet.
func New(cfg Config) (*Address, error) {
	if !cfg.Prefix.Addr().Is4() {
		return nil, fmt.Errorf("virtual IP %v: only IPv4 can be taken over so far", cfg.Prefix)
	}
	return &Address{cfg: cfg, sockets: newPool(cfg.Service, cfg.Log)}, nil
}

// Run has packet sockets ready for the moment in which they are needed, until ctx ends; see
// packet.go.
func (a *Address) Run(ctx context.Context) error {
	return a.sockets.run(ctx, func(ctx context.Context) {
		if !a.owed.Load() {
			return
		}
		if err := a.Announce(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("virtual IP not announced", "ip", a.IP().String(), "err", err)
		}
	})
}

// Trouble is why this host could take the address now but neither ask who has it nor tell
// anybody; nil if it can.
func (a *Address) Trouble() error { return a.sockets.trouble() }

// IP is the address.
func (a *Address) IP() netip.Addr { return a.cfg.Prefix.Addr() }

// link finds the interface.
func (a *Address) link() (netlink.Link, error) {
	if a.cfg.Interface != "" {
		l, err := netlink.LinkByName(a.cfg.Interface)
		if err != nil {
			return nil, fmt.Errorf("virtual IP %v: interface %s: %w", a.IP(), a.cfg.Interface, err)
		}
		return l, nil
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("virtual IP %v: look at the addresses of this host: %w", a.IP(), err)
	}
	for _, ad := range addrs {
		if ad.IP.Equal(a.IP().AsSlice()) {
			continue // our own of before
		}
		ones, _ := ad.Mask.Size()
		if ip, ok := netip.AddrFromSlice(ad.IP.To4()); ok && netip.PrefixFrom(ip, ones).Contains(a.IP()) && ones > 0 {
			return netlink.LinkByIndex(ad.LinkIndex)
		}
	}
	return nil, fmt.Errorf("virtual IP %v: no interface of this host is in its network; set candidate.vip.interface, or correct the address", a.IP())
}

// Held says whether the address is on this host.
func (a *Address) Held() (bool, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return false, fmt.Errorf("virtual IP %v: look at the addresses of this host: %w", a.IP(), err)
	}
	for _, ad := range addrs {
		if ad.IP.Equal(a.IP().AsSlice()) {
			return true, nil
		}
	}
	return false, nil
}

// Claim takes the address for term: asks who has it, adds it, and tells everybody.
// An old master that is cut off from the voters but not from the network may still
// have it for a moment, so Claim waits a little; then it takes it all the same.
//
// Where no packet socket can be had nobody can be asked or told. That fails no promotion:
// the lease has decided, an API without an announcement is found as soon as the neighbours'
// tables are out of date (45 s at most), and on the next host it may be no better. They are
// told as soon as there is a socket.
func (a *Address) Claim(ctx context.Context, term uint64) error {
	l, err := a.link()
	if err != nil {
		return err
	}
	if held, err := a.Held(); err != nil {
		return err
	} else if !held {
		switch err := a.waitFree(ctx, l, term); {
		case isNoSocket(err):
			a.cfg.Log.Error("virtual IP is taken without asking who has it", "ip", a.IP().String(), "term", term, "err", err)
		case err != nil:
			return err
		}
		// /32: the address must not change which source address this host uses, nor
		// bring a route of its own.
		err = netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.IP().AsSlice(), Mask: net.CIDRMask(32, 32)}, Flags: unix.IFA_F_NOPREFIXROUTE})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add the virtual IP %v to %s: %w", a.IP(), l.Attrs().Name, err)
		}
		a.cfg.Log.Info("virtual IP taken", "ip", a.IP().String(), "interface", l.Attrs().Name, "term", term)
	}
	return a.tell(ctx, l)
}

// Announce tells everybody once more that the address is here, if it is.
func (a *Address) Announce(ctx context.Context) error {
	held, err := a.Held()
	if err != nil || !held {
		return err
	}
	l, err := a.link()
	if err != nil {
		return err
	}
	return a.tell(ctx, l)
}

// tell announces the address, or owes it to the neighbours until it can.
func (a *Address) tell(ctx context.Context, l netlink.Link) error {
	was := a.owed.Swap(true) // before it is tried: a socket may come while it fails
	err := a.announce(ctx, l)
	if !isNoSocket(err) {
		a.owed.Store(false)
		return err
	}
	if !was {
		a.cfg.Log.Error("virtual IP is here and nobody was told: clients may look for it elsewhere for up to a minute", "ip", a.IP().String(), "err", err)
	}
	return nil
}

// Hardware is the Ethernet address of the interface that the address is for.
func (a *Address) Hardware() (net.HardwareAddr, error) {
	l, err := a.link()
	if err != nil {
		return nil, err
	}
	return l.Attrs().HardwareAddr, nil
}

// Owner asks who answers for the address, this host aside; nil = nobody.
func (a *Address) Owner(ctx context.Context) (net.HardwareAddr, error) {
	l, err := a.link()
	if err != nil {
		return nil, err
	}
	return a.Probe(ctx, l)
}

// waitFree waits until nobody answers for the address, or patience is over.
func (a *Address) waitFree(ctx context.Context, l netlink.Link, term uint64) error {
	begin := time.Now()
	for n := 0; ; n++ {
		owner, err := a.Probe(ctx, l)
		if err != nil {
			return err
		}
		a.contested.Store(owner != nil)
		if owner == nil {
			return nil
		}
		if n == 0 {
			a.cfg.Log.Warn("virtual IP is still taken", "ip", a.IP().String(), "by", owner.String(), "term", term)
		}
		if time.Since(begin) > patience {
			a.cfg.Log.Error("virtual IP taken while another host answers for it: an old master that hangs, or an address inside the DHCP range", "ip", a.IP().String(), "by", owner.String(), "term", term)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("take the virtual IP %v: %v still has it: %w", a.IP(), owner, ctx.Err())
		case <-time.After(probeWait):
		}
	}
}

// Defend corrects the neighbours' tables as long as another host answers for the
// address as well. It says who that is; nil = nobody.
func (a *Address) Defend(ctx context.Context) (net.HardwareAddr, error) {
	if !a.contested.Load() {
		return nil, nil
	}
	l, err := a.link()
	if err != nil {
		return nil, err
	}
	owner, err := a.Probe(ctx, l)
	if isNoSocket(err) {
		return nil, nil // Run has said so
	}
	if err != nil {
		return nil, err
	}
	if owner == nil {
		a.contested.Store(false)
		a.cfg.Log.Info("virtual IP is ours alone", "ip", a.IP().String())
		return nil, nil
	}
	return owner, a.announce(ctx, l)
}

func (a *Address) announce(ctx context.Context, l netlink.Link) error {
	s, err := a.socket(ctx, l)
	if err != nil {
		return fmt.Errorf("announce the virtual IP %v: %w", a.IP(), err)
	}
	defer s.close()
	for i := range announcements {
		for _, reply := range []bool{false, true} {
			if err := s.send(announcement(s.hw, a.IP(), reply)); err != nil {
				return fmt.Errorf("announce the virtual IP %v: %w", a.IP(), err)
			}
		}
		if i == announcements-1 {
			break
		}
		select {
		case <-ctx.Done():
			return nil // once is enough to be correct
		case <-time.After(announceWait):
		}
	}
	return nil
}

// Release gives the address up; it may be gone already.
func (a *Address) Release(context.Context) error {
	a.owed.Store(false)
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("give up the virtual IP %v: %w", a.IP(), err)
	}
	for _, ad := range addrs {
		if !ad.IP.Equal(a.IP().AsSlice()) {
			continue
		}
		l, err := netlink.LinkByIndex(ad.LinkIndex)
		if err == nil {
			err = netlink.AddrDel(l, &ad)
		}
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("give up the virtual IP %v: %w", a.IP(), err)
		}
		a.cfg.Log.Info("virtual IP given up", "ip", a.IP().String())
	}
	return nil
}

// Probe asks on a link who has the address; nil = nobody answered.
func (a *Address) Probe(ctx context.Context, l netlink.Link) (net.HardwareAddr, error) {
	s, err := a.socket(ctx, l)
	if err != nil {
		return nil, fmt.Errorf("ask who has the virtual IP %v: %w", a.IP(), err)
	}
	defer s.close()
	for range probes {
		if err := s.send(probe(s.hw, a.IP())); err != nil {
			return nil, fmt.Errorf("ask who has the virtual IP %v: %w", a.IP(), err)
		}
		owner, err := s.listen(ctx, probeWait, func(f frame) bool {
			return f.senderIP == a.IP() && !bytes.Equal(f.senderHW, s.hw)
		})
		if owner != nil || err != nil {
			return owner, err
		}
	}
	return nil, nil
}

// socket sends and hears ARP on one link.
type socket struct {
	fd    int
	back  func()
	hw    net.HardwareAddr
	index int
}

// socket is one on a link.
func (a *Address) socket(ctx context.Context, l netlink.Link) (*socket, error) {
	hw := l.Attrs().HardwareAddr
	if len(hw) != 6 {
		return nil, fmt.Errorf("interface %s has no Ethernet address", l.Attrs().Name)
	}
	fd, back, err := a.sockets.take(ctx)
	if err != nil {
		return nil, err
	}
	if err := bind(fd, l.Attrs().Index); err != nil {
		back()
		return nil, fmt.Errorf("listen on %s: %w", l.Attrs().Name, err)
	}
	return &socket{fd, back, hw, l.Attrs().Index}, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 } // Linux runs little-endian on every board we ship for

func (s *socket) close() { s.back() }

func (s *socket) send(f frame) error {
	sa := &unix.SockaddrLinklayer{Protocol: htons(etherARP), Ifindex: s.index, Halen: 6}
	copy(sa.Addr[:], f.dst)
	return unix.Sendto(s.fd, f.encode(), 0, sa)
}

// listen waits for a packet that matches, and returns its sender.
func (s *socket) listen(ctx context.Context, limit time.Duration, match func(frame) bool) (net.HardwareAddr, error) {
	end := time.Now().Add(limit)
	buf := make([]byte, 256)
	for {
		left := time.Until(end)
		if left <= 0 {
			return nil, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, max(1, int(left.Milliseconds())))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		if n == 0 {
			continue
		}
		n, _, err = unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			continue
		}
		if f, err := decode(buf[:n]); err == nil && match(f) {
			return bytes.Clone(f.senderHW), nil
		}
	}
}
