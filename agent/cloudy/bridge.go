package cloudy

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// DefaultPort is where Cloudy's ring gossips, tcp and udp.
const DefaultPort = 5000

// tagName is the tag that carries the list. Others (extraInfo, ipfssvc, …) are
// none of our business, neither to read nor to write.
const tagName = "services"

// BridgeConfig of a [Bridge].
type BridgeConfig struct {
	// Node is this host's name in the ring. Everybody's boards are called raspberrypi:
	// see [NodeName].
	Node          string
	BindAddr      string // IP address to listen on; "" = 0.0.0.0
	Port          int    // tcp and udp; 0 = [DefaultPort]
	AdvertiseAddr string // IP address for the others; "" = BindAddr
	// Join lists members to enter the ring by, host or host:port. They are tried for
	// ever while nobody else is there, and now and then if they are missing.
	Join []string
	Here Here // goes into the list
	// Ours says of which members the list is known without this ring: other agents of
	// our cluster. nil = none.
	Ours   func(node string) bool
	Limits Limits // of what is read
	// Transport opens the network; nil = the real one.
	Transport func(bindAddr string, port int) (memberlist.NodeAwareTransport, error)
	Log       *slog.Logger
}

// NodeName is a name for the ring that no other host has, as long as addresses are
// unique there: relevo-HOST-ADDRESS-PORT, of letters, digits, dots and hyphens,
// which is all that Serf allows where it looks.
func NodeName(host string, at netip.AddrPort) string {
	name := fmt.Sprintf("relevo-%s-%s-%d", host, at.Addr().Unmap().WithZone(""), at.Port())
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, name)
	return name[max(0, len(name)-128):]
}

// Bridge is this host's member of Cloudy's ring: a second Serf, without a key,
// with members and a port of its own. It shares nothing with our pool but the lists
// that it is given and gives, and the pool takes no packet that is not encrypted,
// so that the two cannot merge, whoever joins whom.
type Bridge struct {
	cfg     BridgeConfig
	log     *slog.Logger
	changes chan struct{} // all of these are buffered by one
	newTag  chan struct{}
	newList chan struct{}

	mu      sync.Mutex
	tag     string // to be written
	left    []Left
	peers   map[string]*peer // members that are alive, without this one
	full    bool             // there are more
	entries []Entry
	err     error
}

// NewBridge makes a bridge; [Bridge.Run] enters the ring.
func NewBridge(cfg BridgeConfig) (*Bridge, error) {
	cfg.Port = cmp.Or(cfg.Port, DefaultPort)
	cfg.BindAddr = cmp.Or(cfg.BindAddr, "0.0.0.0")
	if cfg.Node == "" || cfg.Log == nil {
		return nil, errors.New("enter Cloudy's ring: node and log are needed")
	}
	if cfg.Port < 1 || cfg.Port > 65535 {
		return nil, fmt.Errorf("enter Cloudy's ring: port %d: 1 to 65535 is allowed", cfg.Port)
	}
	for _, a := range []string{cfg.BindAddr, cfg.AdvertiseAddr} {
		if _, err := netip.ParseAddr(a); a != "" && err != nil {
			return nil, fmt.Errorf("enter Cloudy's ring: address %q: an IP address is needed: %w", a, err)
		}
	}
	join := make([]string, len(cfg.Join))
	for i, a := range cfg.Join {
		var err error
		if join[i], err = withPort(a); err != nil {
			return nil, fmt.Errorf("enter Cloudy's ring: join %q: %w", a, err)
		}
	}
	cfg.Join = join
	cfg.Limits = cfg.Limits.orDefaults()
	return &Bridge{cfg: cfg, log: cfg.Log, changes: make(chan struct{}, 1), newTag: make(chan struct{}, 1), newList: make(chan struct{}, 1),
		peers: map[string]*peer{}}, nil
}

// withPort adds the usual port to a host without one.
func withPort(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = strings.Trim(addr, "[]"), strconv.Itoa(DefaultPort)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("port %q: 1 to 65535 is allowed", port)
	}
	if host == "" || strings.ContainsAny(host, "[]/ ") || strings.Contains(host, ":") && !isIP(host) {
		return "", errors.New("host or host:port is needed")
	}
	return net.JoinHostPort(host, port), nil
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// Publish replaces the public list of this host, and returns what does not fit into
// it. It does not wait: Run writes the tag, if it is another one, and at most once
// in settle.
func (b *Bridge) Publish(entries []Entry) []Left {
	tag, left := Encode(entries, b.cfg.Here, MaxTag)
	b.mu.Lock()
	b.tag, b.left = tag, left
	b.mu.Unlock()
	kick(b.newTag)
	return slices.Clone(left)
}

// Entries are the services of all other members that are alive, in a steady order.
func (b *Bridge) Entries() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.entries)
}

// Changes signals that Entries or Status may be others; several changes may be one
// signal.
func (b *Bridge) Changes() <-chan struct{} { return b.changes }

// BridgeStatus is how the bridge stands.
type BridgeStatus struct {
	Members    int      // others that are alive
	Unreadable []string // those whose list could be read in part at most
	Entries    int
	Left       []Left // what is not in our list
	Err        error  // why this host is not in the ring
}

// Status is the present state.
func (b *Bridge) Status() BridgeStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BridgeStatus{Members: len(b.peers), Entries: len(b.entries), Left: slices.Clone(b.left), Err: b.err}
	for node, p := range b.peers {
		if p.err != nil {
			s.Unreadable = append(s.Unreadable, node)
		}
	}
	slices.Sort(s.Unreadable)
	return s
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait is time.Sleep that ends with done.
func wait(done <-chan struct{}, d time.Duration) {
	select {
	case <-done:
	case <-time.After(d):
	}
}
