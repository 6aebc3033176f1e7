package cloudy

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	defaultCloud      = "guifi"
	defaultMicroCloud = "demo"
	defaultDevice     = "eth0"
)

// Settings are what Cloudy's own configuration files say.
type Settings struct {
	Device     string     // the community network's interface
	Chosen     bool       // Device was configured, not assumed
	Cloud      string     // the last but one label of host names
	MicroCloud string     // also the name of the tinc device
	PublicIP   netip.Addr // if it is configured
	Backends   []string   // where avahi-ps publishes and searches: memory (Avahi), serf, …
	Ring       Ring
	Problems   []string // what was not understood, with file and line
}

// Ring is what Cloudy's page has written about its Serf.
type Ring struct {
	Port      int
	Join      []string
	Interface string
	Advertise string
}

// ReadSettings reads the files below root ("" = /) in the order in which Cloudy's
// script reads them; later ones count. They are read as lists of KEY=value and
// never executed. Absent files are no problem.
func ReadSettings(root string, getenv func(string) string) Settings {
	r := reader{vars: map[string]string{}, root: root}
	for _, k := range []string{"PUBLIC_IP", "SEARCH_ONLY"} {
		if v := getenv(k); v != "" {
			r.vars[k] = v
		}
	}
	r.vars["PUBLIC_DEVICE"], r.vars["CLOUD_NAME"], r.vars["DEVICE_NAME"] = "", defaultCloud, defaultMicroCloud
	if r.file("etc/getinconf-client.conf") {
		r.vars["DEVICE_NAME"] = r.vars["NETWORK_NAME"]
		if r.vars["GETINCONF_IGNORE"] != "1" {
			r.vars["PUBLIC_DEVICE"] = r.vars["INTERNAL_DEV"]
		}
	}
	if r.file("etc/cloudy/cloudy.conf") && r.vars["PRIMARYINTERFACE"] != "" {
		r.vars["PUBLIC_DEVICE"] = r.vars["PRIMARYINTERFACE"]
	}
	r.vars["EXECUTE_IN"], r.vars["DATABASE"] = "memory", "none"
	r.file("etc/avahi-ps.conf")
	switch only := r.vars["SEARCH_ONLY"]; only {
	case "":
	case "avahi":
		r.vars["EXECUTE_IN"], r.vars["DATABASE"] = "memory", "none"
	default:
		r.vars["EXECUTE_IN"], r.vars["DATABASE"] = "none", only
	}
	r.file("etc/avahi-ps-serf.conf")
	return r.settings()
}

func (r *reader) settings() Settings {
	s := Settings{Cloud: word(r.vars["CLOUD_NAME"]), MicroCloud: word(r.vars["DEVICE_NAME"]), Device: r.device("PUBLIC_DEVICE")}
	s.Chosen = s.Device != ""
	if !s.Chosen {
		s.Device = defaultDevice
	}
	if s.Cloud == "" {
		s.Cloud = defaultCloud
	}
	if ip := r.vars["PUBLIC_IP"]; ip != "" {
		// PHP and shell put this into command lines: an address, or nothing.
		if a, err := netip.ParseAddr(ip); err == nil && a.Is4() {
			s.PublicIP = a
		} else {
			r.problem("PUBLIC_IP=%.40q is no IPv4 address", ip)
		}
	}
	for _, b := range strings.Fields(r.vars["EXECUTE_IN"] + " " + r.vars["DATABASE"]) {
		if b != "none" && !slices.Contains(s.Backends, b) {
			s.Backends = append(s.Backends, b)
		}
	}
	s.Ring = Ring{Port: DefaultPort, Interface: r.device("SERF_INTERFACE"), Advertise: r.vars["ADVERTISE_IP"]}
	if p := r.vars["SERF_BIND"]; p != "" {
		if n, err := strconv.Atoi(p); err == nil && n > 0 && n < 65536 {
			s.Ring.Port = n
		} else {
			r.problem("SERF_BIND=%.40q is no port", p)
		}
	}
	for _, a := range strings.Fields(r.vars["SERF_JOIN"]) {
		if full, err := withPort(a); err == nil {
			s.Ring.Join = append(s.Ring.Join, full)
		} else {
			r.problem("SERF_JOIN=%.40q: %v", a, err)
		}
	}
	if a := s.Ring.Advertise; a != "" && !isIP(a) {
		r.problem("ADVERTISE_IP=%.40q is no IP address", a)
		s.Ring.Advertise = ""
	}
	s.Problems = r.problems
	return s
}

// word is text that means nothing to a shell: letters, digits and some signs.
func word(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("_.:@-", c) {
			return c
		}
		return -1
	}, safe(text, wireText))
}

// reader collects variables.
type reader struct {
	root     string
	vars     map[string]string
	problems []string
}

// problem notes one, up to a number that a person reads.
func (r *reader) problem(format string, args ...any) {
	if len(r.problems) < 20 {
		r.problems = append(r.problems, fmt.Sprintf(format, args...))
	}
}

// device is a variable that names an interface. Cloudy's page puts it into a path in
// a command line.
func (r *reader) device(key string) string {
	v := r.vars[key]
	if v != word(v) || len(v) > 15 || v == "." || v == ".." {
		r.problem("%.40q is no name of an interface", v)
		return ""
	}
	return v
}

// maxConf bounds a configuration file, in bytes.
const maxConf = 64 << 10

// file reads one, and says whether it could be.
func (r *reader) file(path string) bool {
	path = filepath.Join("/", r.root, path)
	text, err := readSmall(path, maxConf)
	if os.IsNotExist(err) {
		return false
	}
	if err != nil {
		r.problem("%v", err)
		return false
	}
	r.parse(path, string(text))
	return true
}

// readSmall reads a file of at most max bytes.
func readSmall(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(text)) > max {
		err = fmt.Errorf("read %s: it has more than %d bytes", path, max)
	}
	return text, err
}
