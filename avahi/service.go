// Package avahi announces services by DNS-SD and finds those of others: through
// avahi-daemon over D-Bus where it runs, else by itself. What is announced is
// declared as a whole set; what is found is a bounded snapshot. Names and texts
// from the network are hostile until they are checked.
package avahi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits. 63 and 255 bytes are DNS's own, 400 keeps an announcement in one packet
// beside its other records, the rest bounds what strangers can make us remember.
const (
	MaxName    = 63
	MaxTXT     = 255
	MaxTXTs    = 400
	maxEntries = 1000
)

// Service is something to announce.
type Service struct {
	Name string   // instance name: UTF-8, at most 63 bytes
	Type string   // such as _http._tcp
	Port int      // 1 to 65535
	TXT  []string // key=value, at most 255 bytes each and 400 together
	// Host and Addr announce an address that is not this host's own, such as a
	// virtual IP, under a host label of its own. "" = this host.
	Host string
	Addr netip.Addr
}

// Check says what is wrong with a service.
func (s Service) Check() error {
	if err := checkName(s.Name); err != nil {
		return fmt.Errorf("service name %q: %w", s.Name, err)
	}
	if !ValidType(s.Type) {
		return fmt.Errorf("service %q: type %q: a type such as _http._tcp is allowed", s.Name, s.Type)
	}
	if s.Port < 1 || s.Port > 65535 {
		return fmt.Errorf("service %q: port %d: 1 to 65535 is allowed", s.Name, s.Port)
	}
	total := 0
	for _, t := range s.TXT {
		total += len(t) + 1
		if len(t) > MaxTXT || strings.HasPrefix(t, "=") {
			return fmt.Errorf("service %q: TXT %.20q…: key=value of at most %d bytes is allowed", s.Name, t, MaxTXT)
		}
	}
	if total > MaxTXTs {
		return fmt.Errorf("service %q: TXT records of %d bytes: %d together are allowed", s.Name, total, MaxTXTs)
	}
	if (s.Host == "") != !s.Addr.IsValid() {
		return fmt.Errorf("service %q: a host label and its address go together", s.Name)
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "" || len(name) > MaxName:
		return fmt.Errorf("1 to %d bytes are allowed, these are %d", MaxName, len(name))
	case !utf8.ValidString(name):
		return errors.New("it is not UTF-8")
	case strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("control characters are not allowed")
	}
	return nil
}

// ValidType checks a service type by RFC 6763: _name._tcp or _name._udp, where
// name has at most 15 letters, digits and hyphens.
func ValidType(t string) bool {
	name, ok := strings.CutSuffix(t, "._tcp")
	if !ok {
		name, ok = strings.CutSuffix(t, "._udp")
	}
	name, under := strings.CutPrefix(name, "_")
	if !ok || !under || name == "" || len(name) > 15 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

func (s Service) key() string { return s.Type + "\x00" + s.Name }

func (s Service) sameRecords(o Service) bool {
	return s.key() == o.key() && s.Port == o.Port && s.Host == o.Host && s.Addr == o.Addr
}

// Entry is a service that was found.
type Entry struct {
	Name string
	Type string
	Host string
	Addr netip.Addr
	Port int
	TXT  []string
}

// Value is the value of a TXT key, "" if it is not there.
func (e Entry) Value(key string) string {
	for _, t := range e.TXT {
		if k, v, _ := strings.Cut(t, "="); strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}

// clean makes an entry from the network harmless, or refuses it.
func (e Entry) clean() (Entry, bool) {
	if checkName(e.Name) != nil || !ValidType(e.Type) || e.Port < 1 || e.Port > 65535 || len(e.Host) > 255 || !e.Addr.IsValid() {
		return e, false
	}
	var txt []string
	total := 0
	for _, t := range e.TXT {
		total += len(t)
		if len(t) > MaxTXT || total > 4*MaxTXTs || !utf8.ValidString(t) || strings.ContainsFunc(t, unicode.IsControl) {
			continue
		}
		txt = append(txt, t)
	}
	e.TXT = txt
	e.Host = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, e.Host), "")
	return e, true
}

func sortEntries(es []Entry) []Entry {
	slices.SortFunc(es, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), a.Addr.Compare(b.Addr))
	})
	return es
}

// backend is one way to announce and to find.
type backend interface {
	// run works until ctx ends, or until the backend is gone (an error).
	run(ctx context.Context, b *Board) error
}

// dots are label separators to zeroconf, also within a name.
func undot(name string) string { return strings.ReplaceAll(name, ".", "·") }
