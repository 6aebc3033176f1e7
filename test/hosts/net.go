package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// SwitchIP is the bridge's own address and the hosts' default gateway, where no
	// packet goes any further.
	SwitchIP = "10.77.0.254"
	// Prefix is the length of the network's prefix: 10.77.0.0/24.
	Prefix = 24

	maxHosts  = 90 // 10.77.0.100 and above are free for virtual addresses
	switchNet = "switch"
)

func (l *Lab) plugBridge(ctx context.Context) error {
	script := `set -e
ip netns add $1
ip -n $1 link set lo up
ip -n $1 link add br0 address 02:52:4c:56:00:fe type bridge mcast_snooping 0 stp_state 0
ip -n $1 address add $2 dev br0
ip -n $1 link set br0 up
ip netns exec $1 sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding'
ip netns exec $1 nft 'add table bridge rlv; add chain bridge rlv cut { type filter hook forward priority 0; }'`
	if _, err := l.sh(ctx, script, switchNet, fmt.Sprintf("%s/%d", SwitchIP, Prefix)); err != nil {
		return fmt.Errorf("make the bridge: %w", err)
	}
	return nil
}

// plug gives a host that is off a fresh network card on a fresh kernel network: a
// power cut takes addresses, routes and neighbours along, so boots start anew. The
// hardware address stays.
func (h *Host) plug(ctx context.Context) error {
	script := `set -e
ip -n $1 link del $2 2>/dev/null || true
ip netns del $2 2>/dev/null || true
ip netns add $2
ip -n $2 link set lo up
ip -n $1 link add $2 type veth peer name eth0 address $3 netns $2
ip -n $1 link set $2 master br0 up
ip -n $2 address add $4 dev eth0
ip -n $2 link set eth0 up
ip -n $2 route add default via $5`
	mac := fmt.Sprintf("02:52:4c:56:00:%02x", h.number)
	_, err := h.lab.sh(ctx, script, switchNet, h.Name, mac, fmt.Sprintf("%s/%d", h.IP, Prefix), SwitchIP)
	if err != nil {
		return fmt.Errorf("plug the network card of %s: %w", h.Name, err)
	}
	return nil
}

// LinkDown pulls the host's network cable: the host sees no carrier and keeps its
// addresses.
func (h *Host) LinkDown(ctx context.Context) error { return h.link(ctx, "down") }

// LinkUp puts the cable back.
func (h *Host) LinkUp(ctx context.Context) error { return h.link(ctx, "up") }

func (h *Host) link(ctx context.Context, state string) error {
	h.lab.opts.Log("%s: link %s", h.Name, state)
	// Without a program: whoever measures what a cut cost wants to know when it was.
	err := h.lab.Do(func() error { return setUp(h.Name, state == "up") })
	if err != nil {
		return fmt.Errorf("set the link of %s %s: %w", h.Name, state, err)
	}
	return ctx.Err()
}

// setUp brings an interface of this thread's network up or down.
func setUp(name string, up bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	flags := r.Uint16() &^ unix.IFF_UP
	if up {
		flags |= unix.IFF_UP
	}
	r.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// Readdress gives the host another address of the network, as DHCP might, and takes
// the old one away. It lasts beyond the next boot.
func (h *Host) Readdress(ctx context.Context, ip netip.Addr) error {
	script := `set -e
ip -n $1 address del $2 dev eth0
ip -n $1 address add $3 dev eth0
ip -n $1 route replace default via $4`
	_, err := h.lab.sh(ctx, script, h.Name, fmt.Sprintf("%s/%d", h.IP, Prefix), fmt.Sprintf("%s/%d", ip, Prefix), SwitchIP)
	if err != nil {
		return fmt.Errorf("give %s the address %s: %w", h.Name, ip, err)
	}
	h.lab.opts.Log("%s: address %s instead of %s", h.Name, ip, h.IP)
	h.IP = ip
	return nil
}

// rule drops a share of what the bridge carries from one host's port to another's.
type rule struct {
	from, to string
	percent  int
}

// Partition splits the network: hosts of different groups do not hear each other any
// more, hosts of one group do, and a host in no group hears everybody. It is done by
// nftables on the bridge, so that the links stay up, and the switch itself (Lab.Do)
// still reaches all. It replaces every partition, cut and loss before it.
func (l *Lab) Partition(ctx context.Context, groups ...[]*Host) error {
	var rules []rule
	for i, a := range groups {
		for j, b := range groups {
			if i == j {
				continue
			}
			for _, from := range a {
				for _, to := range b {
					rules = append(rules, rule{from.Name, to.Name, 100})
				}
			}
		}
	}
	return l.setRules(ctx, func([]rule) []rule { return rules })
}

// Cut drops everything from one host to another, one way.
func (l *Lab) Cut(ctx context.Context, from, to *Host) error { return l.Loss(ctx, from, to, 100) }

// Loss drops a share of the packets from one host to another, in percent, one way. It
// adds to what is cut already; 0 heals this way.
func (l *Lab) Loss(ctx context.Context, from, to *Host, percent int) error {
	if percent < 0 || percent > 100 {
		return fmt.Errorf("lose %d %% of the packets: 0 to 100", percent)
	}
	return l.setRules(ctx, func(rules []rule) []rule {
		rules = slices.DeleteFunc(slices.Clone(rules), func(r rule) bool { return r.from == from.Name && r.to == to.Name })
		if percent > 0 {
			rules = append(rules, rule{from.Name, to.Name, percent})
		}
		return rules
	})
}

// Heal undoes partitions, cuts and losses. It does not raise links.
func (l *Lab) Heal(ctx context.Context) error {
	return l.setRules(ctx, func([]rule) []rule { return nil })
}

// setRules replaces what the bridge drops, in one transaction.
func (l *Lab) setRules(ctx context.Context, change func([]rule) []rule) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	rules := change(l.rules)
	var nft, say strings.Builder
	nft.WriteString("flush chain bridge rlv cut\n")
	for _, r := range rules {
		share := ""
		if r.percent < 100 {
			share = fmt.Sprintf("numgen random mod 100 < %d ", r.percent)
		}
		fmt.Fprintf(&nft, "add rule bridge rlv cut iifname \"%s\" oifname \"%s\" %sdrop\n", r.from, r.to, share)
		fmt.Fprintf(&say, " %s>%s %d%%", r.from, r.to, r.percent)
	}
	c := l.enter(ctx, "ip", "netns", "exec", switchNet, "nft", "-f", "-")
	c.Stdin = strings.NewReader(nft.String())
	if _, err := output(c); err != nil {
		return fmt.Errorf("set what the bridge drops: %w", err)
	}
	l.rules = rules
	if len(rules) == 0 {
		l.opts.Log("network: whole")
	} else {
		l.opts.Log("network: drops%s", say.String())
	}
	return nil
}

// Do calls f on a thread inside the switch's network namespace: sockets that f
// itself makes (not goroutines that it starts) are at SwitchIP, where partitions do
// not reach and pulled cables do.
func (l *Lab) Do(f func() error) error { return inNetns(l.path("/run/netns/"+switchNet), f) }

// Do calls f on a thread inside the host's network namespace: sockets that f itself
// makes (not goroutines that it starts) are the host's. It works as long as the host
// has power, frozen or not.
func (h *Host) Do(f func() error) error {
	return inNetns(h.lab.path("/run/netns/"+h.Name), f)
}

// DialContext connects from the switch; see [Host.DialContext].
func (l *Lab) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return dial(ctx, l.Do, network, address)
}

// DialContext connects from the host. The address is IP:port: names would be looked
// up outside the lab. It fits http.Transport, grpc and client-go's rest.Config.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := dial(ctx, h.Do, network, address)
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", h.Name, err)
	}
	return c, nil
}

// HTTPClient talks HTTP from the host, for plain URLs with IP addresses. It keeps no
// connections, so that each request sees the network as it is.
func (h *Host) HTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true},
	}
}

func dial(ctx context.Context, do func(func() error) error, network, address string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial %s: give IP:port, names are not looked up in a lab: %w", address, err)
	}
	err = do(func() error {
		// A literal address and no fallback: net makes the socket in this goroutine.
		d := net.Dialer{FallbackDelay: -1, KeepAlive: 15 * time.Second}
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// inNetns calls f with the thread in another network namespace.
func inNetns(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	defer ns.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace %s: %w", path, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that it dies with this goroutine.
		return errors.Join(err, fmt.Errorf("leave the network namespace %s: %w", path, back))
	}
	runtime.UnlockOSThread()
	return err
}
