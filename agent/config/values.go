package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// text gives the value of a text scalar, or notes that it is none.
func (d *decoder) text(n *yaml.Node, path, want string) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "is %s: %s is needed", describe(n), want)
		return "", false
	}
	if n.Tag != "!!str" && n.Tag != "!!timestamp" {
		d.fail(n, path, "is %s: %s is needed (as text: %q)", describe(n), want, n.Value)
		return "", false
	}
	if i := strings.IndexFunc(n.Value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }); i >= 0 {
		d.fail(n, path, "%s contains a control character", quote(n.Value))
		return "", false
	}
	return n.Value, true
}

// orEmpty allows "" before set, and stores it.
func orEmpty(p *string, set setter) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value == "" {
			*p = ""
			return
		}
		set(d, n, path)
	}
}

// orZero allows 0s before set, and stores it.
func orZero(p *time.Duration, set setter) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value == "0s" {
			*p = 0
			return
		}
		set(d, n, path)
	}
}

// checkName is the rule for names of clusters and nodes: they become DNS labels
// and parts of certificates.
func checkName(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("%s: 1 to 63 characters are allowed", quote(s))
	}
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(s)-1:
		default:
			return fmt.Errorf("%s: only a-z, 0-9 and - (not at the ends) are allowed", quote(s))
		}
	}
	return nil
}

func name(p *string) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "a name")
		if !ok {
			return
		}
		if err := checkName(s); err != nil {
			d.fail(n, path, "%v", err)
			return
		}
		*p = s
	}
}

func boolean(p *bool) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.fail(n, path, "is %s: true or false is needed", describe(n))
			return
		}
		*p = strings.EqualFold(n.Value, "true")
	}
}

func integer(p *int, low, high int) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" {
			d.fail(n, path, "is %s: a whole number from %d to %d is needed", describe(n), low, high)
			return
		}
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if err != nil || v < int64(low) || v > int64(high) {
			d.fail(n, path, "%s is out of range: %d to %d are allowed", n.Value, low, high)
			return
		}
		*p = int(v)
	}
}

func duration(p *time.Duration, low, high time.Duration) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		allowed := fmt.Sprintf("%s to %s are allowed", Short(low), Short(high))
		if n.Kind == yaml.ScalarNode && (n.Tag == "!!int" || n.Tag == "!!float") {
			d.fail(n, path, "%q has no unit: write %ss, for instance; %s", n.Value, n.Value, allowed)
			return
		}
		s, ok := d.text(n, path, "a duration such as "+Short(low))
		if !ok {
			return
		}
		v, err := time.ParseDuration(s)
		switch {
		case err != nil:
			d.fail(n, path, "%s is not a duration: write a number with a unit (ms, s, m, h); %s", quote(s), allowed)
		case v < low:
			d.fail(n, path, "%s is too short: %s", quote(s), allowed)
		case v > high:
			d.fail(n, path, "%s is too long: %s", quote(s), allowed)
		default:
			*p = v
		}
	}
}

// Short writes a duration without the zeros that time.Duration ends with: 1m, not
// 1m0s.
func Short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func oneOf[T ~string](p *T, allowed ...T) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		words := make([]string, len(allowed))
		for i, a := range allowed {
			words[i] = string(a)
		}
		list := strings.Join(words, ", ")
		s, ok := d.text(n, path, "one of "+list)
		if !ok {
			return
		}
		if !slices.Contains(allowed, T(s)) {
			d.fail(n, path, "%s is not known: allowed is %s", quote(s), list)
			return
		}
		*p = T(s)
	}
}

func level(p *slog.Level) setter {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	return func(d *decoder, n *yaml.Node, path string) {
		var s string
		oneOf(&s, "debug", "info", "warn", "error")(d, n, path)
		if l, ok := levels[s]; ok {
			*p = l
		}
	}
}

// checkPath is the rule for paths: absolute, and written the one way there is, so
// that two paths can be compared.
func checkPath(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("is empty: an absolute path is needed")
	case !filepath.IsAbs(s):
		return fmt.Errorf("%s is not absolute: it must begin with /", quote(s))
	case len(s) > 1024:
		return fmt.Errorf("%s is too long: at most 1024 bytes are allowed", quote(s))
	case filepath.Clean(s) != s:
		return fmt.Errorf("%s is not in its shortest form: write %s", quote(s), filepath.Clean(s))
	case s == "/":
		return fmt.Errorf("%q is the whole file system: name a file or directory in it", s)
	}
	return nil
}

func absPath(p *string) setter { return pathOf(p, checkPath) }

func pathOf(p *string, check func(string) error) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "an absolute path")
		if !ok {
			return
		}
		if err := check(s); err != nil {
			d.fail(n, path, "%v", err)
			return
		}
		*p = s
	}
}

// maxSocket: the kernel takes 107 bytes; the agent needs a few beside the name
// while it makes the socket.
const maxSocket = 100

func socketPath(p *string) setter {
	return pathOf(p, func(s string) error {
		if err := checkPath(s); err != nil {
			return err
		}
		if len(s) > maxSocket {
			return fmt.Errorf("%s is too long for a unix socket: at most %d bytes are allowed", quote(s), maxSocket)
		}
		return nil
	})
}

// list reads a list of texts, each checked and brought into form by item, without
// duplicates.
func list(p *[]string, most int, item func(string) (string, error)) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		if n.Kind != yaml.SequenceNode {
			d.fail(n, path, "is %s: a list is needed, such as [a, b]", describe(n))
			return
		}
		if len(n.Content) > most {
			d.fail(n, path, "has %d entries: at most %d are allowed", len(n.Content), most)
			return
		}
		out := []string{}
		for i, c := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			if !d.plain(c, at) {
				continue
			}
			s, ok := d.text(c, at, "a text")
			if !ok {
				continue
			}
			s, err := item(s)
			if err != nil {
				d.fail(c, at, "%v", err)
				continue
			}
			if slices.Contains(out, s) {
				d.fail(c, at, "%s is in the list twice", quote(s))
				continue
			}
			out = append(out, s)
			d.at[path+"="+s] = c
		}
		*p = out
	}
}

// command reads a program with its arguments. There is no shell.
func command(p *[]string) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		if n.Kind != yaml.SequenceNode || len(n.Content) > 32 {
			d.fail(n, path, "is %s: a list of a program and at most 31 arguments is needed, such as [/usr/local/sbin/switch-off, --confirm]", describe(n))
			return
		}
		var out []string
		for i, c := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			if !d.plain(c, at) {
				continue
			}
			s, ok := d.text(c, at, "a text (in quotes)")
			if !ok {
				continue
			}
			if i == 0 {
				if err := checkPath(s); err != nil {
					d.fail(c, at, "%v", err)
				}
			}
			if len(s) > 1024 {
				d.fail(c, at, "is too long: at most 1024 bytes are allowed")
			}
			out = append(out, s)
		}
		*p = out
	}
}

func identityPath(s string) (string, error) { return s, checkPath(s) }

// unit accepts names of systemd services. Other kinds of units have no processes
// of their own, so the fence could neither hold back nor kill them.
func unit(s string) (string, error) {
	base, ok := strings.CutSuffix(s, ".service")
	if !ok {
		return "", fmt.Errorf("%s: the name of a systemd service is needed, ending in .service", quote(s))
	}
	if len(s) > 255 || base == "" || strings.HasPrefix(base, "@") || strings.HasPrefix(base, "-") {
		return "", fmt.Errorf("%s is not a name for a systemd service", quote(s))
	}
	for _, c := range base {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(`:-_.\@`, c)
		if !ok {
			return "", fmt.Errorf("%s is not a name for a systemd service: %q is not allowed in it", quote(s), c)
		}
	}
	if strings.HasSuffix(base, "@") {
		return "", fmt.Errorf("%s is a template: name an instance of it, such as %sa.service", quote(s), base)
	}
	if s == "relevo.service" {
		return "", fmt.Errorf("%q is the agent itself: it cannot be part of the control plane", s)
	}
	return s, nil
}

func interfaceName(p *string) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "the name of a network interface")
		if !ok {
			return
		}
		// The kernel's own rule: at most 15 bytes, no slash, no space, no colon.
		if len(s) == 0 || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t") {
			d.fail(n, path, "%s is not a name for a network interface, such as eth0 or wlan0", quote(s))
			return
		}
		*p = s
	}
}

func addr(p *netip.Addr) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "an IP address")
		if !ok || s == "" {
			return
		}
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			d.fail(n, path, "%s is not an IP address, such as 192.168.1.10", quote(s))
		case a.IsUnspecified() || a.IsMulticast():
			d.fail(n, path, "%s is not the address of one host", quote(s))
		default:
			*p = a.Unmap()
		}
	}
}

func checkHost(h string) error {
	if _, err := netip.ParseAddr(h); err == nil {
		return nil
	}
	ok := len(h) > 0 && len(h) <= 253
	for _, label := range strings.Split(h, ".") {
		ok = ok && len(label) > 0 && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		for _, c := range label {
			ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
		}
	}
	if !ok {
		return fmt.Errorf("%s is not a host name or IP address", quote(h))
	}
	return nil
}

// hostPort accepts host, host:port, IPv6 and [IPv6]:port. The port is filled in
// by finish when the gossip port is known; until then a missing one is "".
func hostPort(s string) (string, error) {
	if checkHost(s) == nil {
		return net.JoinHostPort(s, ""), nil
	}
	h, port, err := net.SplitHostPort(s)
	if err != nil || checkHost(h) != nil {
		return "", fmt.Errorf("%s is not a host to join: host, host:port or [IPv6]:port is needed", quote(s))
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
		return "", fmt.Errorf("%s: port %q is out of range: 1 to 65535 are allowed", quote(s), port)
	}
	return s, nil
}

func listen(p *string) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "an address such as 127.0.0.1:7948")
		if !ok {
			return
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			d.fail(n, path, `%s is not an address to listen on: ip:port is needed, such as 127.0.0.1:7948 or 0.0.0.0:7948; "" = off`, quote(s))
			return
		}
		if ap.Port() == 0 || ap.Addr().IsMulticast() {
			d.fail(n, path, "%s is not an address to listen on: a port from 1 to 65535 on an address of this host is needed", quote(s))
			return
		}
		*p = ap.String()
	}
}

func apiURL(p *string) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "a URL such as https://127.0.0.1:6443")
		if !ok {
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" || checkHost(u.Hostname()) != nil || len(s) > 1024 {
			d.fail(n, path, "%s is not a URL, such as https://127.0.0.1:6443", quote(s))
			return
		}
		if port := u.Port(); port != "" {
			if v, err := strconv.Atoi(port); err != nil || v < 1 || v > 65535 {
				d.fail(n, path, "%s: port %s is out of range: 1 to 65535 are allowed", quote(s), quote(port))
				return
			}
		}
		a, _ := netip.ParseAddr(u.Hostname())
		loopback := u.Hostname() == "localhost" || a.IsLoopback()
		switch {
		case u.Scheme != "https" && !(u.Scheme == "http" && loopback):
			d.fail(n, path, "%s: https is needed (http is allowed on loopback only): the agent sends credentials there", quote(s))
		case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
			d.fail(n, path, "%s: only scheme, host and port are allowed, such as https://127.0.0.1:6443", quote(s))
		default:
			*p = strings.TrimRight(s, "/")
		}
	}
}

func vipAddress(p *netip.Prefix) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		const want = "an IPv4 address with the length of its network, such as 192.168.1.100/24"
		s, ok := d.text(n, path, want)
		if !ok {
			return
		}
		pre, err := netip.ParsePrefix(s)
		if err != nil || !pre.Addr().Is4() {
			d.fail(n, path, "%s: %s is needed", quote(s), want)
			return
		}
		a := pre.Addr()
		if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || pre.Bits() < 8 {
			d.fail(n, path, "%s is not an address that a host of a LAN can have: %s is needed", quote(s), want)
			return
		}
		if pre.Bits() <= 30 && (a == pre.Masked().Addr() || a == broadcast(pre)) {
			d.fail(n, path, "%s is the network itself or its broadcast address: %s is needed", quote(s), want)
			return
		}
		*p = pre
	}
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}
