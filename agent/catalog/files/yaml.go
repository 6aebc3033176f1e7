package files

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"

	"relevo.dev/relevo/agent/catalog/check"
	"relevo.dev/relevo/avahi"
)

// Service is one service of a file.
type Service struct {
	Name        string // %h is this host's name
	Type        string
	Subtypes    []string
	Description string
	Host        string     // label of Addr; "" = made from it
	Addr        netip.Addr // zero = this host's
	Port        int
	TXT         []string
	Public      bool        // the community may see it
	Check       *check.Spec // nil = none
}

// Error is a mistake in a file.
type Error struct {
	File         string
	Line, Column int // from 1; 0 = the file as a whole
	Msg          string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Msg
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, max(e.Column, 1), e.Msg)
}

// Limits of a file.
const (
	maxSize     = 64 << 10 // bytes
	maxServices = 200      // in one file
	maxTXT      = 32
	maxText     = 400 // bytes of any text
)

// ParseYAML reads services: one, or a list of them. name is what errors call the file.
// Services without a mistake are there beside the errors.
func ParseYAML(name string, text []byte) (out []Service, errs []*Error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // nothing but comments
	} else if err != nil {
		return nil, []*Error{syntax(name, err)}
	}
	if err := dec.Decode(&more); err == nil {
		errs = append(errs, &Error{name, more.Line, more.Column, "a second document begins here and is not read: several services are a list, each with `- name:`"})
	} else if !errors.Is(err, io.EOF) {
		return nil, []*Error{syntax(name, err)}
	}
	nodes := doc.Content
	if len(nodes) == 1 && nodes[0].Kind == yaml.SequenceNode {
		nodes = nodes[0].Content
	}
	for i, n := range nodes {
		if i == maxServices {
			errs = append(errs, &Error{name, n.Line, n.Column, fmt.Sprintf("%d services are read of one file, the rest is left out", maxServices)})
			break
		}
		if n.Kind == yaml.ScalarNode && n.Tag == "!!null" && len(nodes) == 1 {
			break
		}
		d := decoder{file: name}
		s := d.service(n)
		if len(d.errs) == 0 {
			out = append(out, s)
		}
		errs = append(errs, d.errs...)
	}
	return out, errs
}

func syntax(name string, err error) *Error {
	e := &Error{File: name, Line: 1, Msg: "is not YAML near this line: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := regexp.MustCompile(`^yaml: line (\d+): `).FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Msg = "is not YAML near this line: " + err.Error()[len(m[0]):]
	}
	return e
}

// decoder reads one service.
type decoder struct {
	file string
	errs []*Error
}

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	d.errs = append(d.errs, &Error{d.file, n.Line, n.Column, fmt.Sprintf(format, args...)})
}

// section hands each value of a mapping to whom its key belongs.
func (d *decoder) section(n *yaml.Node, what string, fields map[string]func(*yaml.Node)) (seen map[string]*yaml.Node) {
	seen = map[string]*yaml.Node{}
	known := strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
	if n.Kind != yaml.MappingNode {
		d.fail(n, "%s is needed here, with keys: %s", what, known)
		return seen
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		set := fields[k.Value]
		switch {
		case k.Kind != yaml.ScalarNode || set == nil:
			d.fail(k, "unknown key %s: known are %s", quote(k.Value), known)
		case seen[k.Value] != nil:
			d.fail(k, "%s is given twice: first at line %d", k.Value, seen[k.Value].Line)
		case v.Kind == yaml.AliasNode || v.Anchor != "" || v.Style&yaml.TaggedStyle != 0:
			d.fail(v, "%s: anchors, aliases and tags are not read: write the value out", k.Value)
		default:
			set(v)
		}
		seen[k.Value] = v
	}
	return seen
}

func quote(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(s[:60], "?"))
	}
	return fmt.Sprintf("%q", s)
}

func (d *decoder) text(p *string, key string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		switch {
		case n.Kind != yaml.ScalarNode:
			d.fail(n, "%s: a text is needed", key)
		case n.Tag != "!!str":
			d.fail(n, "%s: a text is needed: write it in quotes, %q", key, n.Value)
		case strings.ContainsFunc(n.Value, unicode.IsControl):
			d.fail(n, "%s: %s has control characters", key, quote(n.Value))
		case len(n.Value) > maxText:
			d.fail(n, "%s: it has %d bytes, %d are allowed", key, len(n.Value), maxText)
		default:
			*p = n.Value
		}
	}
}

func (d *decoder) integer(p *int, key string, low, high int) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil || v < low || v > high {
			d.fail(n, "%s: %s: a whole number from %d to %d is needed", key, quote(n.Value), low, high)
			return
		}
		*p = v
	}
}

func (d *decoder) boolean(p *bool, key string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.fail(n, "%s: %s: true or false is needed", key, quote(n.Value))
			return
		}
		*p = strings.EqualFold(n.Value, "true")
	}
}

func (d *decoder) duration(p *time.Duration, key string, low, high time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < low || v > high {
			d.fail(n, "%s: %s: a time from %v to %s is needed, such as 10s", key, quote(n.Value), low, strings.TrimSuffix(high.String(), "0m0s"))
			return
		}
		*p = v
	}
}

// texts is a list of texts.
func (d *decoder) texts(p *[]string, key string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode || len(n.Content) > maxTXT {
			d.fail(n, "%s: a list of at most %d texts is needed, such as [%s]", key, maxTXT, map[string]string{"txt": "path=/", "subtypes": "_printer"}[key])
			return
		}
		for _, c := range n.Content {
			var s string
			d.text(&s, key)(c)
			*p = append(*p, s)
		}
	}
}

// txt is a list of key=value, or a section of keys with values.
func (d *decoder) txt(p *[]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.MappingNode || len(n.Content) > 2*maxTXT {
			d.texts(p, "txt")(n)
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if v.Kind != yaml.ScalarNode || strings.Contains(k.Value, "=") || strings.ContainsFunc(v.Value, unicode.IsControl) || len(k.Value)+len(v.Value) > maxText {
				d.fail(v, "txt: %s: a short text or number is needed", quote(k.Value))
				continue
			}
			*p = append(*p, k.Value+"="+v.Value)
		}
	}
}

func (d *decoder) service(n *yaml.Node) (s Service) {
	addr := ""
	seen := d.section(n, "a service", map[string]func(*yaml.Node){
		"name":        d.text(&s.Name, "name"),
		"type":        d.text(&s.Type, "type"),
		"subtypes":    d.texts(&s.Subtypes, "subtypes"),
		"port":        d.integer(&s.Port, "port", 1, 65535),
		"description": d.text(&s.Description, "description"),
		"txt":         d.txt(&s.TXT),
		"host":        d.text(&s.Host, "host"),
		"address":     d.text(&addr, "address"),
		"cloudy":      d.boolean(&s.Public, "cloudy"),
		"check":       func(*yaml.Node) {}, // below: it needs the port
	})
	if n.Kind != yaml.MappingNode {
		return s
	}
	for _, k := range []string{"name", "type", "port"} {
		if seen[k] == nil {
			d.fail(n, "%s is missing", k)
		}
	}
	if t := seen["type"]; t != nil && s.Type != "" && !avahi.ValidType(s.Type) {
		d.fail(t, "type: %s: something like _http._tcp or _sip._udp is needed", quote(s.Type))
	}
	if seen["name"] != nil && s.Name == "" && len(d.errs) == 0 {
		d.fail(seen["name"], "name: it is empty")
	}
	if addr != "" {
		a, err := netip.ParseAddr(addr)
		if err != nil || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" {
			d.fail(seen["address"], "address: %s: the IP address of one host is needed", quote(addr))
		}
		s.Addr = a.Unmap()
	}
	if c := seen["check"]; c != nil && c.Kind != yaml.AliasNode {
		s.Check = d.check(c, s)
	}
	return s
}

// check reads how a service is tried.
func (d *decoder) check(n *yaml.Node, s Service) *check.Spec {
	c := &check.Spec{Interval: 10 * time.Second, Timeout: 2 * time.Second}
	host := ""
	if s.Addr.IsValid() {
		host = s.Addr.String()
	}
	own := net.JoinHostPort(host, strconv.Itoa(s.Port))
	seen := d.section(n, "a check", map[string]func(*yaml.Node){
		"tcp": func(n *yaml.Node) {
			v := n.Value
			if port, err := strconv.Atoi(v); err == nil && port > 0 && port < 65536 {
				v = net.JoinHostPort(host, v)
			}
			h, port, err := net.SplitHostPort(v)
			p, perr := strconv.Atoi(port)
			if n.Tag == "!!bool" && strings.EqualFold(n.Value, "true") {
				c.TCP = own
			} else if n.Kind != yaml.ScalarNode || err != nil || perr != nil || p < 1 || p > 65535 || strings.ContainsAny(h, "/ ") {
				d.fail(n, "check.tcp: %s: true (the port of the service), a port or host:port is needed", quote(n.Value))
			} else {
				c.TCP = v
			}
		},
		"http": func(n *yaml.Node) {
			var v string
			d.text(&v, "check.http")(n)
			if strings.HasPrefix(v, "/") {
				scheme := "http://"
				if strings.HasPrefix(s.Type, "_https.") {
					scheme = "https://"
				}
				v = scheme + own + v
			}
			u, err := url.Parse(v)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
				d.fail(n, "check.http: %s: a path such as /health, or a URL, is needed", quote(n.Value))
			}
			c.HTTP = v
		},
		"unit": func(n *yaml.Node) {
			d.text(&c.Unit, "check.unit")(n)
			if !strings.Contains(c.Unit, ".") || strings.ContainsAny(c.Unit, "/ ") || len(c.Unit) > 255 {
				d.fail(n, "check.unit: %s: a unit of systemd's is needed, such as grafana.service", quote(c.Unit))
			}
		},
		"interval": d.duration(&c.Interval, "check.interval", time.Second, time.Hour),
		"timeout":  d.duration(&c.Timeout, "check.timeout", 100*time.Millisecond, 30*time.Second),
	})
	if n.Kind == yaml.MappingNode && cmp.Or(seen["tcp"], seen["http"], seen["unit"]) == nil {
		d.fail(n, "check: at least one of tcp, http and unit is needed")
	}
	if c.Timeout > c.Interval && len(d.errs) == 0 {
		d.fail(n, "check: the timeout of %v is longer than the interval of %v", c.Timeout, c.Interval)
	}
	return c
}
