package config

import (
	"net"
	"net/netip"
	"strconv"
)

// Services is where this host's own services come from.
type Services struct {
	Dir string // folder of *.yaml and *.service files, absolute; "" = none
}

// Cloudy is this host's part in Cloudy's ring; see docs/cloudy.md.
type Cloudy struct {
	Bridge     bool       // take part
	Join       []string   // members to enter the ring by, as host:port
	Port       int        // tcp and udp, of this host in the ring
	Interface  string     // whose address is Advertise; "" = as Config.Interface
	Advertise  netip.Addr // where the ring reaches this host; zero = of Interface
	MicroCloud string     // what our services belong to there; "" = the cluster's name
	Publish    Publish
}

// Publish says which services the community sees.
type Publish string

// PublishMarked are those whose file or annotation says so, PublishAll all but the
// agents' own.
const (
	PublishMarked Publish = "marked"
	PublishAll    Publish = "all"
	PublishNone   Publish = "none"
)

func (c *Config) serviceDefaults() {
	c.Services = Services{Dir: "/etc/relevo/services.d"}
	c.Cloudy = Cloudy{Port: 5000, Publish: PublishMarked}
}

func services(s *Services) []field {
	return []field{value("dir", orEmpty(&s.Dir, absPath(&s.Dir)))}
}

func cloudy(c *Cloudy) []field {
	return []field{
		value("bridge", boolean(&c.Bridge)),
		value("join", list(&c.Join, 64, hostPort)),
		value("port", integer(&c.Port, 1, 65535)),
		value("interface", orEmpty(&c.Interface, interfaceName(&c.Interface))),
		value("advertise", addr(&c.Advertise)),
		value("micro_cloud", orEmpty(&c.MicroCloud, name(&c.MicroCloud))),
		value("publish", oneOf(&c.Publish, PublishMarked, PublishAll, PublishNone)),
	}
}

// cloudy fills in ports, and checks them against those of the agent.
func (d *decoder) cloudy(c *Config) {
	for i, s := range c.Cloudy.Join {
		if h, port, _ := net.SplitHostPort(s); port == "" {
			c.Cloudy.Join[i] = net.JoinHostPort(h, "5000") // where Cloudy's own are
		}
	}
	p := c.Cloudy.Port
	if c.Cloudy.Bridge && (p == c.Gossip.Port || p == c.Peer.Port) {
		d.fail(d.at["cloudy.port"], "cloudy.port", "port %d is taken by gossip.port or peer.port: they must differ", p)
	}
	if ap, err := netip.ParseAddrPort(c.HTTP.Listen); err == nil && c.Cloudy.Bridge && int(ap.Port()) == p {
		d.fail(d.at["cloudy.port"], "cloudy.port", "port %d is taken by http.listen: they must differ", p)
	}
}

func (w *writer) services(c *Config) {
	w.raw(0, "services", "")
	w.str(1, "dir", c.Services.Dir)
	w.raw(0, "cloudy", "")
	w.raw(1, "bridge", strconv.FormatBool(c.Cloudy.Bridge))
	w.list(1, "join", c.Cloudy.Join)
	w.raw(1, "port", strconv.Itoa(c.Cloudy.Port))
	w.str(1, "interface", c.Cloudy.Interface)
	advertise := ""
	if c.Cloudy.Advertise.IsValid() {
		advertise = c.Cloudy.Advertise.String()
	}
	w.str(1, "advertise", advertise)
	w.str(1, "micro_cloud", c.Cloudy.MicroCloud)
	w.str(1, "publish", string(c.Cloudy.Publish))
}
